import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.checkpoints import fill_random
from tokenmill.tokenizers.trellis_ss import OFFICIAL, TrellisSS
from tokenmill.tokenizers.volumes import Volumes
from tokenmill.views.voxels import Voxels
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.strict import build

NARROW: dict[str, Any] = {
    "channels": (4, 6),
    "latent_channels": 3,
    "num_res_blocks": 1,
    "num_res_blocks_middle": 1,
    "resolution": 8,
}


def narrow(**more: Any) -> TrellisSS:
    """A small tokenizer: 8 cells a side, 4 x 4 x 4 latents of 3 channels."""
    return TrellisSS(**{"checkpoint": "random:0", "config": NARROW} | more)


def volumes(count: int = 3) -> Volumes:
    """Noise."""
    return np.random.default_rng(0).random((count, 8, 8, 8)) > 0.6


def save_halves(folder: Path, *, decoder: bool = True) -> Path:
    """Save a model as the authors do; returns the encoder's JSON."""
    network = narrow().network()
    assert network.decoder is not None
    halves = {"ss_enc_x": network.encoder} | ({"ss_dec_x": network.decoder} if decoder else {})
    for name, half in halves.items():
        fill_random(half, "random:0")
        save_file(dict(half.state_dict()), folder / f"{name}.safetensors")
    arguments = NARROW | {"in_channels": 1, "use_fp16": True}
    del arguments["resolution"]
    text = json.dumps({"name": "SparseStructureEncoder", "args": arguments})
    (folder / "ss_enc_x.json").write_text(text)
    return folder / "ss_enc_x.json"


def test_a_volume_becomes_latents_and_a_volume_again() -> None:
    """The spec, the arrays and the reconstruction agree on shapes and types."""
    tokenizer = narrow()
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(volumes()))
    stream = tokenizer.spec((8, 8, 8))["shape"]
    assert tokens["shape"].shape == (3, *stream.shape) == (3, 4, 4, 4, 3)
    assert tokens["shape"].dtype == stream.storage_dtype == "float32"
    back = encoder.decode(tokens)
    assert back.shape == (3, 8, 8, 8)
    assert back.dtype == np.bool_
    encoder.close()


def test_a_samples_latents_do_not_depend_on_its_batch() -> None:
    """The first of three is what it is alone, but for the order of sums."""
    encoder = narrow().load()
    both, alone = (encoder.encode(encoder.preprocess(p))["shape"] for p in (volumes(), volumes(1)))
    np.testing.assert_allclose(both[:1], alone, rtol=0, atol=2e-6)


def test_mean_and_log_variance_are_stored_side_by_side() -> None:
    """Twice the channels, the mean first; decoding reads the mean."""
    plain, both = narrow(), narrow(posterior="mean_logvar")
    a, b = plain.load(), both.load()
    mean, moments = (e.encode(e.preprocess(volumes()))["shape"] for e in (a, b))
    assert both.spec(None)["shape"].channels == 6
    assert np.array_equal(moments[..., :3], mean)
    assert np.array_equal(b.decode({"shape": moments}), a.decode({"shape": mean}))
    latent = both.spec(None)["shape"].latent
    assert latent is not None
    assert (latent.parameters, latent.scale, latent.shift) == ("mean_logvar", (1.0,), (0.0,))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_latents_are_stored_in_the_type_that_is_asked_for(dtype: Any) -> None:
    """And decode from it."""
    tokenizer = narrow(latent_dtype=dtype)
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(volumes()))
    assert tokens["shape"].dtype == tokenizer.spec(None)["shape"].storage_dtype
    same = encoder.decode(tokens) == narrow().load().decode(
        narrow().load().encode(encoder.preprocess(volumes()))
    )
    assert same.mean() > 0.95


def test_the_official_spec() -> None:
    """16 x 16 x 16 positions of 8 channels, and the decoder's name beside the encoder's."""
    (stream,) = TrellisSS().spec((64, 64, 64)).streams
    assert [axis.name for axis in stream.axes] == ["x", "y", "z"]
    assert stream.shape == (16, 16, 16, 8)
    decoder = TrellisSS().decoder_weights
    assert decoder is not None
    assert decoder.checkpoint == OFFICIAL.replace("ss_enc", "ss_dec")
    with pytest.raises(JobError, match="takes volumes of 64 cells"):
        TrellisSS().spec((128, 128, 128))


def test_the_authors_json_is_the_architecture(tmp_path: Path) -> None:
    """Its arguments count, the option's changes go over them, and the decoder lies beside."""
    path = save_halves(tmp_path)
    tokenizer = TrellisSS(checkpoint=str(path), config={"resolution": 8})
    assert tokenizer.architecture == narrow().architecture
    encoder, own = tokenizer.load(), narrow().load()
    a, b = (e.encode(e.preprocess(volumes())) for e in (encoder, own))
    assert np.array_equal(a["shape"], b["shape"])
    assert np.array_equal(encoder.decode(a), own.decode(b))
    named = narrow(checkpoint=str(path.with_suffix(".safetensors")))
    assert named.identity == tokenizer.identity


def test_an_encoder_alone_encodes(tmp_path: Path) -> None:
    """A decoder that was only guessed may be missing; one that was named may not."""
    path = str(save_halves(tmp_path, decoder=False))
    encoder = TrellisSS(checkpoint=path, config={"resolution": 8}).load()
    tokens = encoder.encode(encoder.preprocess(volumes()))
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode(tokens)
    lone = tmp_path / "mine.safetensors"
    (tmp_path / "ss_enc_x.safetensors").rename(lone)
    assert not narrow(checkpoint=str(lone)).can_decode
    assert narrow(checkpoint=str(lone)).load().encode(encoder.preprocess(volumes()))
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        narrow(decoder=str(tmp_path / "none.safetensors")).load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no TRELLIS model file"),
        ("{", "no TRELLIS model file"),
        ('{"name": "x"}', "no TRELLIS model file"),
        ('{"args": {"in_channels": 2}}', "in_channels must be 1"),
        ('{"args": {"norm_type": "group"}}', "norm_type must be 'layer'"),
        ('{"args": {"model_channels": 2}}', "unknown key"),
    ],
)
def test_json_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A structured-latent encoder's file lies in the same folder."""
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(JobError, match=message):
        TrellisSS(checkpoint=str(tmp_path / "other.json")).spec(None)


def test_whatever_can_change_a_latent_is_in_the_identity() -> None:
    """The decoder cannot."""
    others = [
        narrow(),
        narrow(dtype="float16"),
        narrow(latent_dtype="float16"),
        narrow(posterior="mean_logvar"),
        narrow(checkpoint="random:1"),
        narrow(config=NARROW | {"num_res_blocks": 2}),
    ]
    assert len({str(other.identity) for other in others}) == len(others)
    assert narrow(decoder="random:5").identity == narrow().identity
    assert pickle.loads(pickle.dumps(narrow())) == narrow()
    with pytest.raises(JobError, match="did you mean 'channels'"):
        open_tokenizer("trellis_ss", config={"chanels": [4]})


def test_the_default_view_is_one_that_fits() -> None:
    """The voxels view takes its options, and gives volumes that the tokenizer takes."""
    options = dict(TrellisSS().default_view)
    assert options.pop("kind") == "voxels"
    view = build(Voxels, options, path="view")
    assert (view.gives,) == TrellisSS().takes
    assert TrellisSS().spec(view.shape) == TrellisSS().spec(None)
