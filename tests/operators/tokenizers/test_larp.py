import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tokenmill.shards.columns import encode_streams
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.larp import Larp
from tokenmill.tokenizers.networks.larp import Codebook, LarpNetwork
from tokenmill.tokenizers.networks.larp_config import LarpConfig
from tokenmill.views.clips import Clips
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import CheckpointError, JobError

#: 8 frames of 32 x 32: 32 patches, 24 ids below 50.
TINY: dict[str, Any] = {
    "bottleneck_token_num": 24,
    "input_size": 32,
    "frame_num": 8,
    "codebook_size": 50,
    "encoder_hidden_size": 32,
    "decoder_hidden_size": 48,
    "encoder_num_heads": 2,
    "decoder_num_heads": 3,
    "encoder_depth": 2,
    "decoder_depth": 2,
}


def tiny(**more: Any) -> Larp:
    """A small tokenizer."""
    return Larp("L-long", **{"checkpoint": "random:0", "config": TINY} | more)


def clips(count: int) -> Any:
    """Noise, brighter from clip to clip."""
    noise = np.random.default_rng(0).integers(0, 120, (count, 8, 32, 32, 3))
    return (noise + 30 * np.arange(count)[:, None, None, None, None]).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def encoder() -> Any:
    """A small live encoder."""
    return tiny().load()


def test_the_spec_is_one_sequence() -> None:
    """1024 ids of 13 bits in the order of the queries, no prefix of which decodes."""
    stream = Larp(checkpoint="random:0").spec((16, 128, 128))["video"]
    assert (stream.shape, stream.bits_per_token, stream.storage_dtype) == ((1024,), 13, "uint16")
    assert (stream.order, stream.min_prefix, stream.axes[0].name) == ("sequence", 0, "n")


@pytest.mark.parametrize(
    "shape", [(17, 128, 128), (16, 256, 256), (None, 128, 128), (128, 128), None]
)
def test_only_the_trained_shape_is_taken(shape: Any) -> None:
    """Position embeddings are for one shape; any other is a mistake in the job."""
    with pytest.raises(JobError, match=r"view: larp takes clips of exactly 16 frames of 128 x 128"):
        Larp(checkpoint="random:0").spec(shape)


def test_the_default_view_is_the_authors_preprocessing() -> None:
    """A view that there is, whose clips fit, and which fills short ones with their last frame."""
    tokenizer = Larp(checkpoint="random:0")
    view = Clips(**{k: v for k, v in tokenizer.default_view.items() if k != "kind"})
    assert (view.short, view.rule, view.fps) == ("repeat_last", "bilinear", 0.0)
    assert tokenizer.spec(view.shape)["video"].positions == 1024
    assert (view.gives, *tokenizer.takes) == ("clip", "clip")


def test_the_network_has_the_known_size() -> None:
    """172 million parameters, half of them to encode, as computed from the official keys."""
    with torch.device("meta"):
        network = Larp(checkpoint="random:0").network()
    decoding = ("decoder", "final_layer", "bottleneck.out_linear")
    sizes = {key: value.numel() for key, value in network.named_parameters()}
    encoding = [size for key, size in sizes.items() if not key.startswith(decoding)]
    assert (sum(sizes.values()), sum(encoding)) == (172_179_984, 86_547_216)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "L"}, r"tokenizer\.variant"),
        ({"variant": "", "checkpoint": "random:0"}, r"tokenizer\.variant: name 'L-long'"),
        ({"config": {"patch_sise": 8}}, "did you mean 'patch_size'"),
        ({"config": {"patch_size": 7}}, "patch_size must divide input_size"),
        ({"config": {"encoder_num_heads": 5}}, "encoder_num_heads must divide encoder_hidden_size"),
        ({"config": {"l2_normalized": False}}, "stochastic needs l2_normalized"),
    ],
)
def test_a_wrong_description_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    """Before anything is loaded, and with the key at fault."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("larp", **{"checkpoint": "random:0"} | options)


def test_a_description_is_picklable_and_its_identity_tells_all() -> None:
    """Weights, sizes, arithmetic and the eps that libraries changed."""
    assert pickle.loads(pickle.dumps(tiny())) == tiny()
    described = [
        tiny(),
        tiny(checkpoint="random:1"),
        tiny(dtype="bfloat16"),
        tiny(config=TINY | {"norm_eps": 1e-5}),
        tiny(config=TINY | {"stochastic": False}),
    ]
    assert len({digest(tokenizer.identity) for tokenizer in described}) == len(described)


def test_clips_become_ids_that_do_not_depend_on_their_batch(encoder: Any) -> None:
    """Shape, type and range as the spec says; no chance in it; each clip for itself."""
    views = clips(4)
    ids = encoder.encode(encoder.preprocess(views))["video"]
    assert ids.shape == (4, 24)
    assert ids.dtype == np.uint8
    assert len(np.unique(ids)) > 5
    encode_streams(ShardLayout(encoder.spec), {"video": list(ids)})
    alone = [encoder.encode(encoder.preprocess(view[None]))["video"] for view in views]
    assert np.array_equal(np.concatenate(alone), ids)
    assert not isinstance(encoder, StreamingEncoder)


def test_the_network_reads_values_from_0_to_1(encoder: Any) -> None:
    """And gives them back: a reconstruction is a clip of the same shape."""
    views = np.broadcast_to(np.array([0, 51, 255], np.uint8), (1, 8, 32, 32, 3))
    inputs = encoder.preprocess(views)
    assert inputs.shape == (1, 3, 8, 32, 32)
    assert np.array_equal(inputs[0, :, 3, 5, 7].numpy(), np.array([0, 51, 255], np.float32) / 255)
    frames = encoder.decode(encoder.encode(inputs))
    assert (frames.shape, frames.dtype) == (views.shape, np.uint8)


@pytest.mark.parametrize("stochastic", [True, False])
def test_the_id_is_the_code_of_the_smallest_angle(stochastic: bool) -> None:
    """However long vector and code are, and whichever way the codebook was trained."""
    config = LarpConfig(bottleneck_dim=4, codebook_size=30, stochastic=stochastic)
    book = Codebook(config)
    torch.manual_seed(0)
    codes, z = torch.randn(30, 4) * torch.rand(30, 1), torch.randn(2, 9, 4) * 5
    book.embedding.weight.data.copy_(codes)
    with torch.inference_mode():
        ids = book.ids(z)
        taken = book.codes(ids)
    angles = nn.functional.cosine_similarity(z[:, :, None], codes, dim=-1)
    assert torch.equal(ids, angles.argmax(-1))
    assert torch.allclose(taken.norm(dim=-1), torch.ones(2, 9))


def test_a_patch_is_frames_then_rows_then_columns_then_colours() -> None:
    """Value ((f * p + y) * p + x) * 3 + c of a patch is that pixel of its place in the clip."""
    with torch.device("meta"):
        network = LarpNetwork(tiny().architecture)
    values = torch.arange(2 * 4 * 4 * 4 * 8 * 8 * 3).reshape(1, 32, -1)
    clip = network._placed(values)
    assert clip.shape == (1, 3, 8, 32, 32)
    for c, t, y, x in ((0, 0, 0, 0), (2, 5, 17, 30), (1, 7, 8, 3)):
        patch = (t // 4 * 4 + y // 8) * 4 + x // 8
        assert clip[0, c, t, y, x] == values[0, patch, ((t % 4 * 8 + y % 8) * 8 + x % 8) * 3 + c]


def _official(**changes: Any) -> dict[str, Any]:
    """A config.json as the hub mixin writes it, of the small network."""
    quantizer = {"codebook_size": TINY["codebook_size"], "l2_normalized": True, "stochastic": True}
    regularizer = {"name": "vq", "args": quantizer | {"commitment_loss_weight": 0.25}}
    bottleneck = {"bottleneck_dim": 16, "norm": "none", "regularizer": regularizer}
    sizes = {key: value for key, value in TINY.items() if key != "codebook_size"}
    return {
        "bottleneck": {"name": "bottleneck", "args": bottleneck},
        "prior_model": {"name": "gptc-S", "n_rounds": 2},
        "query_init_std": 0.02,
        "use_decoder_patch_query_token_type_embed": True,
        "decoder_patch_size": 8,
        **sizes,
        **changes,
    }


def test_a_folder_of_the_hub_needs_no_variant(tmp_path: Path, encoder: Any) -> None:
    """Its config.json says the architecture; a variant that is named must be the same one."""
    (tmp_path / "config.json").write_text(json.dumps(_official()))
    save_file(encoder.network.state_dict(), tmp_path / "model.safetensors")
    named = open_tokenizer("larp", variant="", checkpoint=str(tmp_path))
    ours: Any = named.load()
    ids = [live.encode(live.preprocess(clips(2)))["video"] for live in (ours, encoder)]
    assert np.array_equal(*ids)
    assert named.identity["architecture"] == tiny().identity["architecture"]
    with pytest.raises(CheckpointError, match=r"another LARP: .*frame_num = 8.*variant = ''"):
        Larp("L-long", str(tmp_path)).load()


@pytest.mark.parametrize(
    "changes",
    [
        {"learned_encoder_patch_pe": True},
        {"transformer_name": "transformer_encoder_fused"},
        {"use_decoder_patch_query_token_type_embed": False},
        {"decoder_temporal_patch_size": 2},
        {"bottleneck": {"args": {"regularizer": {"name": "kl"}}}},
    ],
)
def test_another_network_under_the_name_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The official class has options that the published tokenizer does not use."""
    (tmp_path / "config.json").write_text(json.dumps(_official(**changes)))
    with pytest.raises(CheckpointError, match=f"is known here: {next(iter(changes))} = "):
        _ = Larp("", str(tmp_path)).architecture


def test_a_training_checkpoint_loads_and_may_lack_the_decoder(tmp_path: Path, encoder: Any) -> None:
    """The authors' trainer keeps the weights under model.sd; half of them are enough to encode."""
    decoding = ("decoder", "final_layer", "bottleneck.out_linear")
    state = encoder.network.state_dict()
    half = {key: value for key, value in state.items() if not key.startswith(decoding)}
    torch.save({"model": {"name": "larp_tokenizer", "sd": half}, "epoch": 3}, tmp_path / "last.pth")
    ours: Any = tiny(checkpoint=str(tmp_path / "last.pth")).load()
    ids = [live.encode(live.preprocess(clips(2)))["video"] for live in (ours, encoder)]
    assert np.array_equal(*ids)
    with pytest.raises(JobError, match="holds no decoder"):
        ours.decode({"video": ids[0]})


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path, encoder: Any) -> None:
    """Shapes differ, and the error says which."""
    save_file(encoder.network.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"must be \(1024, 768\), got \(24, 32\)"):
        Larp("L-long", str(tmp_path / "other.safetensors")).load()
