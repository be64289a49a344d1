"""Cosmos tokenizers: shapes, files, clips in parts, and what is refused."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.cosmos import Cosmos, Variant
from tokenmill.tokenizers.networks.cosmos_config import CosmosConfig, official
from tokenmill.tokenizers.networks.cosmos_parts import Fsq, haar, unhaar
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.job import Job

VARIANTS = get_args(Variant)
SMALL = {"channels": 32, "num_res_blocks": 1, "channels_mult": (1, 2, 2)}
TINY = {"channels": 8, "num_res_blocks": 1, "channels_mult": (1, 1)}


def small(variant: Variant = "DV4x8x8", **more: Any) -> Cosmos:
    """A narrow network of the variant, filled from a seed."""
    return Cosmos(variant, **{"checkpoint": "random:0", "config": SMALL, **more})


def noise(*shape: int, seed: int = 0) -> Any:
    """Views of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_views_become_tokens_and_views_again(variant: Variant) -> None:
    """Every variant keeps its spec, in shapes and types, and decodes."""
    tokenizer = small(variant)
    video = variant[1] == "V"
    views = noise(2, 9, 32, 48) if video else noise(2, 32, 48)
    assert tokenizer.takes == (("clip", "image") if video else ("image",))
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess(views))
    (stream,) = tokenizer.spec(views.shape[1:-1]).streams
    assert stream.name == ("video" if video else "image")
    values = tokens[stream.name]
    assert values.shape == (2, *stream.shape)
    assert values.dtype == stream.storage_dtype == ("uint16" if variant[0] == "D" else "float32")
    assert len(np.unique(values)) > 5
    back = encoder.decode(tokens)
    assert back.shape == views.shape
    assert back.dtype == np.uint8
    encoder.close()


@pytest.mark.parametrize(
    ("variant", "shape", "expected"),
    [
        ("DV4x8x8", (17, 512, 512), (5, 64, 64)),
        ("DV8x8x8", (33, 256, 256), (5, 32, 32)),
        ("DV8x16x16", (33, 640, 1024), (5, 40, 64)),
        ("DV8x16x16", (640, 1024), (1, 40, 64)),
        ("DV4x8x8", None, (None, None, None)),
        ("DI8x8", (256, 384), (32, 48)),
        ("DI16x16", (256, 384), (16, 24)),
    ],
)
def test_the_official_grids(variant: Variant, shape: Any, expected: tuple[int, ...]) -> None:
    """Ids per view are those that the model cards tell, of 64,000 codes."""
    (stream,) = Cosmos(variant).spec(shape).streams
    assert stream.shape == expected
    assert stream.vocab_sizes == (64_000,)


def test_latents_say_how_a_generator_scales_them() -> None:
    """The spec of a continuous variant has 16 channels, a type and the given factors."""
    tokenizer = small("CV8x8x8", latent_dtype="bfloat16", scale=(0.5,), shift=(0.1,) * 16)
    (stream,) = tokenizer.spec((9, 64, 64)).streams
    assert stream.shape == (2, 8, 8, 16)
    assert stream.storage_dtype == "uint16"
    assert stream.latent is not None
    assert (stream.latent.scale, stream.latent.shift) == ((0.5,), (0.1,) * 16)
    with pytest.raises(JobError, match=r"tokenizer\.scale: needs 1 or 16 entries, got 2"):
        small("CI8x8", scale=(1.0, 2.0))


def test_a_clip_of_one_frame_is_the_image() -> None:
    """Images and clips of one frame have the same ids, and are the first slot of longer clips."""
    encoder = small().load()
    clip = noise(1, 9, 32, 32)
    whole = encoder.encode(encoder.preprocess(clip))["video"]
    frame = encoder.encode(encoder.preprocess(clip[:, :1]))["video"]
    image = encoder.encode(encoder.preprocess(clip[:, 0]))["video"]
    assert np.array_equal(frame, image)
    assert np.array_equal(whole[:, :1], image)
    assert not np.array_equal(whole[:, 1:2], image)


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [("DV4x8x8", (1, 7, 20, 13)), ("DV8x16x16", (1,) * 41), ("CV8x16x16", (17, 16, 8))],
    ids=lambda given: str(given)[:20],
)
def test_a_clip_in_parts_gives_the_same_bits(variant: Variant, sizes: tuple[int, ...]) -> None:
    """However the frames come, a stream gives what `encode` gives."""
    encoder = small(variant).load()
    assert isinstance(encoder, StreamingEncoder)
    clip = noise(1, 41, 32, 32)
    expected = encoder.encode(encoder.preprocess(clip))["video"]
    stream, other = encoder.open_stream(), encoder.open_stream()
    start = 0
    for size in sizes:
        stream.push(clip[0, start : start + size])
        other.push(255 - clip[0, start : start + size])
        start += size
    assert np.array_equal(stream.finish()["video"], expected)
    inverse = encoder.encode(encoder.preprocess(255 - clip))["video"]
    assert np.array_equal(other.finish()["video"], inverse)


@pytest.mark.parametrize("variant", ["DV4x8x8", "DV8x8x8", "DV8x16x16"])
def test_parts_of_any_size_give_the_same_ids(variant: Variant) -> None:
    """The whole clip at once, and eight frames at a time, agree: latents nearly, ids wholly."""
    encoder: Any = small(variant).load()
    network = encoder.network
    clips = torch.rand(2, 3, 33, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        whole = network.latents(clips, network.begin(2))
        past = network.begin(2)
        cuts = (0, 9, 17, 25, 33)
        parts = [network.latents(clips[:, :, a:b], past) for a, b in pairwise(cuts)]
        joined = torch.cat(parts, dim=1)
        assert (joined - whole).abs().max() < 1e-5 * whole.std()
        ids = [network.quantizer.ids(z.movedim(2, -1)) for z in (joined, whole)]
    assert torch.equal(*ids)


def test_a_stream_remembers_little() -> None:
    """Its memory grows by the keys and values of the attention over time, and by nothing else."""
    encoder: Any = small().load()
    stream = encoder.open_stream()

    def remembered() -> int:
        kept = [
            v
            for held in stream._past.values()
            for v in (held if isinstance(held, tuple) else (held,))
        ]
        return sum(value.untyped_storage().nbytes() for value in kept)

    stream.push(noise(33, 32, 32))
    before = remembered()
    stream.push(noise(64, 32, 32))
    slots, positions, width = 16, 4 * 4, 64
    assert remembered() - before == slots * positions * width * 2 * 4
    assert not stream._waiting


def test_batches_do_not_matter() -> None:
    """A clip's ids are the same alone and beside others."""
    encoder = small("DV8x8x8").load()
    clips = noise(3, 17, 32, 32)
    both = encoder.encode(encoder.preprocess(clips))["video"]
    for number in range(3):
        alone = encoder.encode(encoder.preprocess(clips[number : number + 1]))["video"]
        assert np.array_equal(alone[0], both[number])


def test_other_lengths_are_refused() -> None:
    """A clip that does not fit is an error of the job, of `encode` and of a stream."""
    tokenizer = small("DV8x8x8")
    with pytest.raises(JobError, match=r"view\.frames: cosmos takes clips of 1 \+ 8k frames"):
        tokenizer.spec((16, 64, 64))
    with pytest.raises(JobError, match=r"view\.size: cosmos takes views whose height is"):
        tokenizer.spec((17, 60, 64))
    encoder = tokenizer.load()
    with pytest.raises(ValueError, match="got 5"):
        encoder.encode(encoder.preprocess(noise(1, 5, 32, 32)))
    assert isinstance(encoder, StreamingEncoder)
    stream = encoder.open_stream()
    stream.push(noise(20, 32, 32))
    with pytest.raises(ValueError, match="got 20"):
        stream.finish()


def test_reduced_precision_changes_few_ids() -> None:
    """bfloat16 is another tokenizer, whose ids are mostly the same."""
    exact, quick = small(), small(dtype="bfloat16")
    assert exact.identity != quick.identity
    clips = noise(1, 9, 64, 64)
    a, b = (e.encode(e.preprocess(clips))["video"] for e in (exact.load(), quick.load()))
    assert 0.3 < (a == b).mean() < 1.0


class Tree(nn.Module):
    """A module with given tensors under dotted names, as a scripted model has them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.scale = 1.0
        heads = dict.fromkeys(key.partition(".")[0] for key in weights if "." in key)
        for head in heads:
            inside = {
                key.partition(".")[2]: value
                for key, value in weights.items()
                if key.startswith(f"{head}.")
            }
            self.add_module(head, Tree(inside))
        for key, value in weights.items():
            if "." not in key:
                self.register_parameter(key, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        """Do something with ``x``."""
        return x * self.scale


def weights_of(tokenizer: Cosmos, *prefixes: str) -> dict[str, Tensor]:
    """The random weights, of the parts whose names begin so."""
    encoder: Any = tokenizer.load()
    state: dict[str, Tensor] = encoder.network.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(prefixes or "")}


def save_torchscript(weights: dict[str, Tensor], path: Path) -> None:
    """Save weights as a TorchScript module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: Any = torch.jit.script
        script(Tree(weights)).save(str(path))


ENCODER, DECODER = ("encoder.", "quant_conv."), ("decoder.", "post_quant_conv.")


@pytest.mark.parametrize(
    "layout", ["whole", "halves", "encoder", "file", "state dict", "safetensors"]
)
def test_official_files_are_read(layout: str, tmp_path: Path) -> None:
    """Folders of TorchScript files, one such file, and plain state dicts give the same ids."""
    made = small(config=TINY)
    weights = weights_of(made)
    checkpoint = tmp_path
    if layout in {"whole", "file"}:
        save_torchscript(weights, tmp_path / "autoencoder.jit")
        checkpoint = tmp_path / "autoencoder.jit" if layout == "file" else tmp_path
    elif layout in {"halves", "encoder"}:
        save_torchscript(weights_of(made, *ENCODER), tmp_path / "encoder.jit")
        if layout == "halves":
            save_torchscript(weights_of(made, *DECODER), tmp_path / "decoder.jit")
    elif layout == "state dict":
        checkpoint = tmp_path / "model.pt"
        torch.save({"state_dict": {f"network.{k}": v for k, v in weights.items()}}, checkpoint)
    else:
        checkpoint = tmp_path / "model.safetensors"
        save_file({k: v.contiguous() for k, v in weights.items()}, checkpoint)
    loaded = small(config=TINY, checkpoint=str(checkpoint))
    encoder, other = loaded.load(), made.load()
    views = encoder.preprocess(noise(1, 9, 32, 32))
    tokens, expected = encoder.encode(views), other.encode(views)
    assert np.array_equal(tokens["video"], expected["video"])
    assert len(loaded.identity["weights"]["sha256"]) == 64
    assert ("decoder_weights" in loaded.identity) == (layout == "halves")
    if layout == "encoder":
        with pytest.raises(JobError, match="no decoder"):
            encoder.decode(tokens)
    else:
        assert np.array_equal(encoder.decode(tokens), other.decode(expected))


def test_files_of_another_variant_are_refused(tmp_path: Path) -> None:
    """Missing keys and other shapes name the file."""
    save_torchscript(weights_of(small(config=TINY), *ENCODER), tmp_path / "autoencoder.jit")
    with pytest.raises(CheckpointError, match=r"autoencoder\.jit: .* keys are missing"):
        small(checkpoint=str(tmp_path)).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"none of autoencoder\.jit, encoder\.jit"):
        small(checkpoint=str(tmp_path / "empty")).load()
    broken = tmp_path / "broken.jit"
    broken.write_bytes((tmp_path / "autoencoder.jit").read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"broken\.jit is not a whole"):
        small(checkpoint=str(broken)).load()


def test_the_description_is_cheap_and_stable() -> None:
    """It pickles, its identity is its own, and unknown options are errors at once."""
    tokenizer = small("CI16x16")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.identity == tokenizer.identity
    assert tokenizer.identity["latent_dtype"] == "float32"
    assert small("CI8x8").identity != tokenizer.identity
    assert open_tokenizer("cosmos", checkpoint="random:0").default_view["frames"] == 17
    assert small("DI8x8").default_view["kind"] == "center_crop"
    assert small().resources.batch_size < small("DI8x8").resources.batch_size
    with pytest.raises(JobError, match="unknown key"):
        small(config={"chanels": 32})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial_compression": 12}, "powers of two"),
        ({"temporal_compression": 1}, "temporal_compression is 1 for pictures"),
        ({"spatial_compression": 64}, "cannot give a spatial compression of 64"),
        ({"spatial_compression": 2}, "cannot give a spatial compression of 2"),
        ({"temporal_compression": 64}, "no level gives a time factor of 64"),
        ({"levels": (8, 8)}, "levels must have 6 entries"),
        ({"video": False, "temporal_compression": 1, "channels": 48}, "multiple of 32"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    """A configuration that no network can have says why."""
    with pytest.raises(ValueError, match=message):
        CosmosConfig(**change)


def test_official_names_are_taken_apart() -> None:
    """The sizes that the authors' configurations give to a name."""
    assert asdict(official("DV4x8x8")) == asdict(CosmosConfig())
    assert official("DI16x16").z_channels == 256
    assert official("CV4x8x8").decoder_widths == (256, 512)
    assert official("CV8x8x8").decoder_widths == (256, 512, 512)
    assert official("CI8x8").embedding_dim == 16
    assert official("DV8x16x16").frames == Frames(1, 8)


def test_haar_patches_keep_everything() -> None:
    """The transform is orthogonal up to its scale, and its inverse gives the input back."""
    x = torch.rand(2, 3, 8, 16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = haar(x, 4, (2, 3, 4))
    assert y.shape == (2, 192, 2, 4, 1)
    assert torch.allclose(unhaar(y, 4, (2, 3, 4)), x)
    assert torch.allclose(y[:, :3, 0, 0, 0], x[:, :, :4, :4, :4].mean(dim=(2, 3, 4)))


def test_every_id_has_a_code_of_its_own() -> None:
    """Codes lie in [-1, 1], all of them differ, and the first digit is the least significant."""
    quantizer = Fsq((8, 5, 5))
    ids = torch.arange(math.prod((8, 5, 5)))
    codes = quantizer.codes(ids)
    assert torch.unique(codes, dim=0).shape == codes.shape
    assert codes.min() == -1
    assert codes.max() == 1
    assert torch.equal(codes[:8, 0], torch.arange(-4, 4) / 4)
    assert codes[8].tolist() == [-1.0, -0.5, -1.0]


def test_pictures_go_through_a_tokenizer_of_videos(noise_job: Callable[..., Job]) -> None:
    """A run over pictures stores grids of one slot, and its report has their reconstructions."""
    options = {"kind": "cosmos", "variant": "DV4x8x8", "checkpoint": "random:0", "config": TINY}
    view = {"kind": "center_crop", "size": 32}
    job = noise_job(source={"count": 3}, tokenizer=options, view=view, decoder={"kind": "image"})
    result = run_job(job, observer=SilentObserver())
    assert result.totals["tokens"] == 3 * 4 * 4
    assert "mean PSNR" in Path(result.report).read_text()
