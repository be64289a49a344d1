import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.llamagen import OFFICIAL, VARIANTS, LlamaGen
from tokenmill_schemas.errors import CheckpointError, JobError

NARROW = {
    "ch": 32,
    "num_res_blocks": 1,
    "z_channels": 16,
    "codebook_size": 300,
    "encoder_ch_mult": (1, 1, 2),
    "decoder_ch_mult": (1, 1, 2),
}


def narrow(**more: Any) -> LlamaGen:
    """A small tokenizer of factor 4."""
    return LlamaGen(checkpoint="random:0", config=NARROW, **more)


def views(count: int = 2, height: int = 16, width: int = 24) -> Any:
    """Noise."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_a_view_becomes_a_grid_of_narrow_ids_and_a_picture_again() -> None:
    """The spec, the arrays and the reconstruction agree on shapes and types."""
    tokenizer = narrow()
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views()))
    stream = tokenizer.spec((16, 24))["image"]
    assert tokens["image"].shape == (2, *stream.shape) == (2, 4, 6)
    assert tokens["image"].dtype == stream.storage_dtype == "uint16"
    assert tokens["image"].max() < 300
    assert len(np.unique(tokens["image"])) > 5
    pictures = encoder.decode(tokens)
    assert pictures.shape == (2, 16, 24, 3)
    assert pictures.dtype == np.uint8
    encoder.close()


def test_a_samples_ids_do_not_depend_on_its_batch() -> None:
    """The first of two is what it is alone."""
    encoder = narrow().load()
    both, alone = (encoder.encode(encoder.preprocess(p))["image"] for p in (views(), views()[:1]))
    assert np.array_equal(both[:1], alone)


def test_reduced_precision_changes_few_ids() -> None:
    """bfloat16 convolutions flip near-ties only, and the distances stay float32."""
    exact, quick = (narrow(dtype=d).load() for d in ("float32", "bfloat16"))
    pixels = views(4, 64, 64)
    a, b = (e.encode(e.preprocess(pixels))["image"] for e in (exact, quick))
    assert 0.5 < (a == b).mean() < 1.0


def test_sizes_that_are_no_multiple_of_the_factor_are_an_error() -> None:
    """The message names the factor."""
    with pytest.raises(JobError, match="multiples of 16"):
        LlamaGen(checkpoint="random:0").spec((256, 250))
    with pytest.raises(JobError, match="multiples of 8"):
        LlamaGen("VQ-8", checkpoint="random:0").spec((4, 256))
    assert LlamaGen().spec(None)["image"].shape == (None, None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chh": 64}, r"tokenizer\.config\.chh: unknown key; did you mean 'ch'"),
        ({"ch": 48}, "multiple of 32"),
        ({"encoder_ch_mult": [1, 2]}, "same number of levels"),
        ({"ch": "wide"}, "must be int"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_once(config: dict[str, Any], message: str) -> None:
    """Before any actor is asked to load it."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("llamagen", config=config)


def test_an_unknown_variant_is_an_error() -> None:
    """With the nearest one."""
    with pytest.raises(JobError, match="VQ-16"):
        open_tokenizer("llamagen", variant="VQ16")
    assert OFFICIAL.keys() == VARIANTS.keys()


def test_whatever_can_change_an_id_is_in_the_identity(tmp_path: Path) -> None:
    """Architecture, weights, dtype; not the file's name."""
    tokenizer = narrow()
    path, copy = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(_state(tokenizer), path)
    copy.write_bytes(path.read_bytes())
    others = [
        tokenizer,
        narrow(dtype="bfloat16"),
        narrow(ema=True),
        LlamaGen(checkpoint="random:1", config=NARROW),
        LlamaGen(checkpoint="random:0", config=NARROW | {"codebook_l2_norm": False}),
        LlamaGen(checkpoint=str(path), config=NARROW),
    ]
    identities = [str(other.identity) for other in others]
    assert len(set(identities)) == len(others)
    assert str(LlamaGen(checkpoint=str(copy), config=NARROW).identity) == identities[-1]


def test_a_description_crosses_processes() -> None:
    """Actors get it pickled."""
    tokenizer = narrow()
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer


def test_describing_does_not_import_torch() -> None:
    """Planning a job on a head node needs no network."""
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer as o;"
        "t = o('llamagen', checkpoint='random:0'); t.spec((256, 256)); t.identity; t.resources;"
        "t = o('taming', variant='kl-f8', checkpoint='random:0'); t.spec(None); t.identity;"
        "t = o('maskgit_vqgan', checkpoint='random:0'); t.spec(None); t.identity;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_janus_checkpoint_loads_as_it_is(tmp_path: Path) -> None:
    """Its tokenizer is under a prefix, among the keys of the language model."""
    tokenizer = narrow()
    path = tmp_path / "model.safetensors"
    inside = {f"gen_vision_model.{k}": v for k, v in _state(tokenizer).items()}
    save_file(inside | {"language_model.embed": torch.zeros(2)}, path)
    janus = LlamaGen(checkpoint=str(path), config=NARROW).load()
    own = tokenizer.load()
    a, b = (e.encode(e.preprocess(views()))["image"] for e in (janus, own))
    assert np.array_equal(a, b)


def test_a_checkpoint_without_decoder_encodes_and_says_so_on_decode(tmp_path: Path) -> None:
    """Encoding needs half of the weights."""
    path = tmp_path / "encoder.pt"
    own = _state(narrow())
    half = {k: v for k, v in own.items() if not k.startswith(("decoder.", "post_quant_conv."))}
    torch.save({"model": half}, path)
    encoder = LlamaGen(checkpoint=str(path), config=NARROW).load()
    tokens = encoder.encode(encoder.preprocess(views()))
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode(tokens)


def test_another_variants_checkpoint_is_refused(tmp_path: Path) -> None:
    """Keys of one level too few."""
    path = tmp_path / "other.pt"
    config = NARROW | {"encoder_ch_mult": (1, 2), "decoder_ch_mult": (1, 2)}
    torch.save({"model": _state(LlamaGen(config=config))}, path)
    with pytest.raises(CheckpointError, match=r"conv_blocks\.2.* is missing"):
        LlamaGen(checkpoint=str(path), config=NARROW).load()


def _state(tokenizer: LlamaGen) -> dict[str, torch.Tensor]:
    from tokenmill.tokenizers.checkpoints import fill_random

    network = tokenizer.network()
    fill_random(network, "random:0")
    return dict(network.state_dict())
