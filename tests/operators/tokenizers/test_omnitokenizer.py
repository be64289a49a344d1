"""OmniTokenizer: shapes, the settings inside checkpoints, both branches, and what is refused."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from safetensors.torch import save_file
from torch import Tensor

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.networks.omnitokenizer_config import OmniConfig, settings_of
from tokenmill.tokenizers.networks.omnitokenizer_layers import (
    DistanceBias,
    FullAttention,
    Peg,
    alibi_slopes,
)
from tokenmill.tokenizers.omnitokenizer import VARIANTS, OmniTokenizer, Variant
from tokenmill_schemas.errors import CheckpointError, JobError

SMALL: dict[str, Any] = {
    "embedding_dim": 32,
    "dim_head": 8,
    "heads": 4,
    "enc_block": "tw",
    "dec_block": "t",
    "temporal_depth": 1,
    "twod_window_size": 2,
    "n_codes": 300,
}


def small(**more: Any) -> OmniTokenizer:
    """A narrow network filled from a seed."""
    return OmniTokenizer(**{"checkpoint": "random:0", "config": SMALL, **more})


def noise(*shape: int, seed: int = 0) -> Any:
    """Views of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("views", "slots"),
    [(noise(2, 9, 32, 32), 3), (noise(2, 1, 32, 32), 1), (noise(2, 48, 48), 1)],
    ids=["clips", "clips of one frame", "images"],
)
def test_views_become_ids_and_views_again(views: Any, slots: int) -> None:
    """Clips and images keep the spec, in shapes and types, and decode to clips."""
    tokenizer = small()
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views))["video"]
    (stream,) = tokenizer.spec(views.shape[1:-1]).streams
    side = views.shape[-2] // 8
    assert tokens.shape == (2, *stream.shape) == (2, slots, side, side)
    assert tokens.dtype == stream.storage_dtype == "uint16"
    assert tokens.max() < 300
    assert len(np.unique(tokens)) > 5
    back = encoder.decode({"video": tokens})
    assert back.shape == (2, 1 + 4 * (slots - 1), *views.shape[-3:])
    assert back.dtype == np.uint8
    assert not isinstance(encoder, StreamingEncoder)
    encoder.close()


def test_pictures_have_the_same_ids_as_clips_of_one_frame() -> None:
    """An image is a clip of one frame."""
    encoder = small().load()
    images = noise(2, 32, 32)
    ids = [encoder.encode(encoder.preprocess(v))["video"] for v in (images, images[:, None])]
    assert np.array_equal(*ids)


def test_batches_do_not_matter() -> None:
    """A clip's ids are the same alone and beside others."""
    encoder = small().load()
    clips = noise(3, 9, 32, 32)
    both = encoder.encode(encoder.preprocess(clips))["video"]
    alone = [encoder.encode(encoder.preprocess(clips[n : n + 1]))["video"] for n in range(3)]
    assert np.array_equal(np.concatenate(alone), both)


@pytest.mark.parametrize(("posterior", "channels"), [("mean", 8), ("mean_logvar", 16)])
def test_the_vae_gives_its_gaussian(posterior: Any, channels: int) -> None:
    """Latents are the mean, with or without the clamped log-variance; both decode alike."""
    tokenizer = small(variant="imagenet_k600_vae", posterior=posterior)
    encoder = tokenizer.load()
    (stream,) = tokenizer.spec((5, 32, 32)).streams
    assert stream.shape == (2, 4, 4, channels)
    assert stream.latent is not None
    assert stream.latent.parameters == posterior
    tokens = encoder.encode(encoder.preprocess(noise(1, 5, 32, 32)))
    assert tokens["video"].shape == (1, *stream.shape)
    pixels = encoder.decode(tokens)
    plain = small(variant="imagenet_k600_vae").load()
    assert np.array_equal(pixels, plain.decode({"video": tokens["video"][..., :8]}))
    assert tokenizer.identity["posterior"] == posterior


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 64, 64), r"view\.frames: omnitokenizer takes clips of 1 \+ 4k frames"),
        ((17, 64, 128), r"view\.size: omnitokenizer takes square views"),
        ((17, 60, 60), r"view\.size: omnitokenizer takes views whose height is"),
        ((17, 72, 72), r"view\.size: omnitokenizer takes sides that are multiples of 64, got 72"),
    ],
)
def test_views_that_do_not_fit_are_the_jobs_fault(shape: Any, message: str) -> None:
    """The error names the key and what would do."""
    with pytest.raises(JobError, match=message):
        OmniTokenizer(checkpoint="random:0").spec(shape)


def test_a_clip_of_another_length_is_refused() -> None:
    """Where views vary, the encoder itself says so."""
    encoder = small().load()
    with pytest.raises(ValueError, match=r"1 \+ 4k frames .* got 8"):
        encoder.encode(encoder.preprocess(noise(1, 8, 32, 32)))


def test_the_models_of_pictures_take_two_frames_per_slot() -> None:
    """The variants differ as the authors' commands do."""
    assert OmniTokenizer("celebahq", checkpoint="random:0").spec((7, 64, 64))["video"].shape[0] == 4
    assert OmniTokenizer(checkpoint="random:0").spec((17, 256, 256))["video"].positions == 5120
    assert set(VARIANTS) == set(get_args(Variant))


def weights_of(tokenizer: OmniTokenizer) -> dict[str, Tensor]:
    """The random weights."""
    encoder: Any = tokenizer.load()
    state: dict[str, Tensor] = encoder.network.state_dict()
    return {key: value.clone() for key, value in state.items()}


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL_TARGET"],)


def lightning(weights: dict[str, Tensor], arguments: Any, path: Path, **more: Any) -> None:
    """Save what Lightning saves."""
    extra = {"image_discriminator.model0.weight": torch.zeros(1)}
    torch.save({"state_dict": weights | extra, "hyper_parameters": arguments, **more}, path)


@pytest.mark.parametrize("spelling", ["causal", "casual"])
@pytest.mark.parametrize("nested", [True, False], ids=["args", "flat"])
def test_a_checkpoint_says_what_it_is(spelling: str, nested: bool, tmp_path: Path) -> None:
    """The namespace inside decides the architecture, in both spellings, over the variant."""
    made = small(config={**SMALL, "causal_in_temporal_transformer": False, "causal_in_peg": False})
    path = tmp_path / "official.ckpt"
    settings = {**SMALL, f"{spelling}_in_temporal_transformer": False, "spatial_pos": "rope"}
    settings |= {f"{spelling}_in_peg": False, "l2_code": True, "codebook_dim": 8, "lr": 1e-3}
    given = argparse.Namespace(**settings)
    lightning(weights_of(made), {"args": given} if nested else dict(settings), path)
    loaded = OmniTokenizer("celebahq", checkpoint=str(path), config={"temporal_patch_size": 4})
    assert loaded.architecture == made.architecture
    encoder, other = loaded.load(), made.load()
    views = encoder.preprocess(noise(1, 9, 32, 32))
    tokens = encoder.encode(views)
    assert np.array_equal(tokens["video"], other.encode(views)["video"])
    assert np.array_equal(encoder.decode(tokens), other.decode(tokens))


def test_older_settings_get_what_the_official_class_gives_them(tmp_path: Path) -> None:
    """A setting that a file lacks is the official class's default, not the newest model's."""
    path = tmp_path / "old.ckpt"
    torch.save({"hyper_parameters": {"args": argparse.Namespace(spatial_depth=3)}}, path)
    assert settings_of(path, "old.ckpt") == {
        "spatial_pos": "rel",
        "twod_window_size": 4,
        "use_vae": False,
        "enc_block": "ttt",
        "dec_block": "ttt",
    }
    torch.save({"hyper_parameters": {"patch_embed": "cnn"}}, path)
    with pytest.raises(CheckpointError, match=r"patch_embed = 'cnn'; only 'linear' is known"):
        settings_of(path, "old.ckpt")


def test_files_without_settings_are_of_the_variant(tmp_path: Path) -> None:
    """State dicts and safetensors say nothing of the architecture."""
    made = small()
    weights = weights_of(made)
    torch.save(weights, tmp_path / "model.pt")
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "model.safetensors")
    for name in ("model.pt", "model.safetensors"):
        loaded = small(checkpoint=str(tmp_path / name))
        assert loaded.architecture == made.architecture
        state = weights_of(loaded)
        assert all(torch.equal(state[key], value) for key, value in weights.items())


def test_nothing_in_a_checkpoint_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with code in it is read for its settings and refused for its weights."""
    monkeypatch.setenv("EVIL_TARGET", str(tmp_path / "made"))
    path = tmp_path / "evil.ckpt"
    made = small()
    lightning(weights_of(made), {"args": argparse.Namespace(**SMALL)}, path, callbacks=Evil())
    loaded = OmniTokenizer(checkpoint=str(path))
    assert loaded.architecture.embedding_dim == SMALL["embedding_dim"]
    with pytest.raises(CheckpointError, match="refused"):
        loaded.load()
    assert not (tmp_path / "made").exists()


def test_part_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """A download that broke off, and a file that is none."""
    path = tmp_path / "model.ckpt"
    lightning(weights_of(small()), {}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model\.ckpt.*is not a whole torch file"):
        small(checkpoint=str(path)).load()
    with pytest.raises(CheckpointError, match="there is no checkpoint file"):
        _ = small(checkpoint=str(tmp_path / "none.ckpt")).architecture


def test_a_checkpoint_without_its_decoder_encodes(tmp_path: Path) -> None:
    """The decoder may be missing as a whole; then only decoding is refused."""
    made = small()
    path = tmp_path / "encoder.pt"
    decoder = ("decoder.", "post_vq_conv.")
    torch.save({k: v for k, v in weights_of(made).items() if not k.startswith(decoder)}, path)
    encoder = small(checkpoint=str(path)).load()
    tokens = encoder.encode(encoder.preprocess(noise(1, 32, 32)))
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode(tokens)


def test_the_description_is_cheap_and_stable() -> None:
    """It pickles, its identity is its own, and unknown options are errors at once."""
    tokenizer = small(attention="einsum")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.identity == tokenizer.identity
    assert tokenizer.identity["architecture"]["attention"] == "einsum"
    assert tokenizer.identity != small().identity
    assert open_tokenizer("omnitokenizer", checkpoint="random:0").default_view["frames"] == 17
    with pytest.raises(JobError, match="unknown key"):
        small(config={"embeding_dim": 32})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enc_block": "tap"}, "letters t and w"),
        ({"embedding_dim": 500, "heads": 7}, "multiple of 7 heads"),
        ({"dim_head": 6, "enc_block": "t", "dec_block": "t"}, "multiple of 4"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    """A configuration that no network can have says why."""
    with pytest.raises(ValueError, match=message):
        OmniConfig(**change)


def test_reduced_precision_changes_few_ids() -> None:
    """bfloat16 is another tokenizer, whose ids are mostly the same."""
    exact, quick = small(), small(dtype="bfloat16")
    clips = noise(1, 9, 64, 64)
    a, b = (e.encode(e.preprocess(clips))["video"] for e in (exact.load(), quick.load()))
    assert 0.3 < (a == b).mean() < 1.0


@pytest.mark.parametrize("attention", ["sdpa", "einsum"])
@pytest.mark.parametrize("spatial", [True, False])
def test_attention_is_what_its_definition_says(attention: Any, spatial: bool) -> None:
    """Both branches, in space with biases by distance and over time with ALiBi, written out."""
    torch.manual_seed(0)
    config = OmniConfig(**{**SMALL, "spatial_pos": "rel", "attention": attention})
    layer = FullAttention(config, spatial=spatial).eval()
    x = torch.randn(2, 9, 32)
    with torch.inference_mode():
        ours = layer(x, (2, 1, 3, 3))
        q = layer.to_q(layer.norm(x)).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = (p.unflatten(-1, (4, 8)).transpose(1, 2) for p in layer.to_kv(x).chunk(2, -1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * 8
        if attention == "einsum":
            scores = scores + (_distances(layer) if spatial else _alibi(9))
        if not spatial:
            scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        assert torch.allclose(ours, layer.to_out(mixed), atol=1e-5)


def _distances(layer: FullAttention) -> Tensor:
    bias = layer.spatial_rel_pos_bias
    assert isinstance(bias, DistanceBias)
    rows = []
    for first in range(9):
        row = []
        for second in range(9):
            steps = torch.tensor([first // 3 - second // 3, first % 3 - second % 3]).float()
            value = steps.sign() * (steps.abs() + 1).log()
            for part in bias.net:
                value = part(value)
            row.append(value)
        rows.append(torch.stack(row))
    return torch.stack(rows).permute(2, 0, 1)


def _alibi(length: int) -> Tensor:
    slopes = torch.tensor([0.25, 0.0625, 0.015625, 0.00390625])
    steps = torch.arange(length)
    return -(steps[:, None] - steps[None]).abs() * slopes[:, None, None]


def test_slopes_for_any_number_of_heads() -> None:
    """Powers of two have one ratio; the rest come from every second of the next finer row."""
    assert alibi_slopes(4) == (0.25, 0.0625, 0.015625, 0.00390625)
    assert alibi_slopes(6) == (*alibi_slopes(4), 0.5, 0.125)


def test_the_positional_convolution_sees_the_past_only() -> None:
    """A causal one does not change where later frames do; the other one does."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, 8)
    later = x.clone()
    later[2] += 1
    for causal in (True, False):
        layer = Peg(8, causal=causal)
        with torch.inference_mode():
            a, b = (layer(rows, (1, 3, 2, 2)) for rows in (x, later))
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[:2], b[:2]) == causal
