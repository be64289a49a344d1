import inspect
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.diffusers_video_vae import DiffusersVideoVae
from tokenmill.tokenizers.video_vae_facts import DEFAULTS, HUNYUAN, LTX, TILES, WAN
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import CheckpointError, JobError

SMALL: dict[str, dict[str, Any]] = {
    WAN: {"base_dim": 4, "z_dim": 16, "num_res_blocks": 1},
    HUNYUAN: {
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
    LTX: {
        "block_out_channels": [8, 8, 8, 8],
        "decoder_block_out_channels": [8, 8, 8, 8],
        "layers_per_block": [1, 1, 1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1, 1, 1],
        "latent_channels": 6,
    },
}
#: The layouts of Wan 2.2 and LTX-Video 0.9.5, small.
WAN_22 = {
    "base_dim": 4,
    "z_dim": 6,
    "num_res_blocks": 1,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": 6 * [0.5],
    "latents_std": 6 * [2.0],
}
LTX_095 = {
    "block_out_channels": [8, 8, 8, 16, 16],
    "down_block_types": 4 * ["LTXVideo095DownBlock3D"],
    "decoder_block_out_channels": [8, 8, 8],
    "layers_per_block": [1, 1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "spatio_temporal_scaling": [True, True, True, True],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "decoder_inject_noise": [True, False, False, False],
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "upsample_residual": [True, True, True],
    "upsample_factor": [1, 1, 1],
    "timestep_conditioning": True,
    "latent_channels": 6,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
#: Names of classes come from tables here, which a checker cannot follow.
Vae: Any = DiffusersVideoVae
SIDES = {WAN: (16, 24), HUNYUAN: (16, 24), LTX: (32, 64)}


def small(name: str, config: dict[str, Any] | None = None, **more: Any) -> DiffusersVideoVae:
    """A small autoencoder."""
    chosen = SMALL[name] if config is None else config
    described: DiffusersVideoVae = Vae("random:0", name, chosen, **more)
    return described


def clips(name: str, frames: int, count: int = 1) -> Any:
    """Noise."""
    shape = (count, frames, *SIDES[name], 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _streams(encoder: Any) -> bool:
    return isinstance(encoder, StreamingEncoder)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", DEFAULTS)
def test_our_copy_of_the_defaults_is_that_of_diffusers(name: str) -> None:
    """A spec is told without importing diffusers, so the few values it needs are kept here."""
    official = inspect.signature(getattr(diffusers, name).__init__).parameters
    for key, value in DEFAULTS[name].items():
        default = official[key].default
        assert value == (tuple(default) if isinstance(default, list) else default)
    network: Any = small(name).load()
    fresh = getattr(diffusers, name)(**SMALL[name])
    for key, value in TILES[name].items():
        assert getattr(fresh, key) == getattr(network.network.vae, key) == value
    if name != WAN:
        assert fresh.use_framewise_encoding == small(name).flags["framewise"]


@pytest.mark.parametrize(("name", "frames", "slots"), [(WAN, 9, 3), (HUNYUAN, 9, 3), (LTX, 17, 3)])
def test_a_clip_becomes_latents_and_a_clip_again(name: str, frames: int, slots: int) -> None:
    """Spec, arrays and reconstruction agree; the latent is what diffusers itself gives."""
    tokenizer = small(name, posterior="mean_logvar")
    encoder: Any = tokenizer.load()
    views = clips(name, frames, 2)
    inputs = encoder.preprocess(views)
    tokens = encoder.encode(inputs)["video"]
    stream = tokenizer.spec(views.shape[1:4])["video"]
    factor = 32 if name == LTX else 8
    assert stream.shape[:3] == (slots, SIDES[name][0] // factor, SIDES[name][1] // factor)
    assert tokens.shape == (2, *stream.shape)
    assert tokens.dtype == stream.storage_dtype == "float32"
    with torch.inference_mode():
        official = encoder.network.vae.encode(inputs).latent_dist
    both = torch.cat([official.mean, official.logvar], 1).permute(0, 2, 3, 4, 1).numpy()
    np.testing.assert_allclose(tokens, both, atol=1e-5 * both.std(), rtol=0)
    back = encoder.decode({"video": tokens})
    assert back.shape == views.shape
    assert back.dtype == np.uint8
    halved = tokens.copy()
    halved[..., halved.shape[-1] // 2 :] = 0
    np.testing.assert_array_equal(encoder.decode({"video": halved}), back)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_picture_is_a_clip_of_one_frame(name: str) -> None:
    """It has one slot of time, whether it comes with an axis of time or without."""
    tokenizer = small(name)
    encoder: Any = tokenizer.load()
    views = clips(name, 1, 2)
    tokens = encoder.encode(encoder.preprocess(views))["video"]
    image = encoder.encode(encoder.preprocess(views[:, 0]))["video"]
    np.testing.assert_array_equal(tokens, image)
    assert tokens.shape[1:] == tokenizer.spec(SIDES[name])["video"].shape
    assert tokenizer.spec((1, *SIDES[name])) == tokenizer.spec(SIDES[name])
    assert encoder.decode({"video": tokens}).shape == views.shape


STREAMED = [
    (WAN, SMALL[WAN], 17, {}),
    (WAN, WAN_22, 13, {}),
    (LTX, SMALL[LTX], 25, {}),
    (LTX, LTX_095, 17, {}),
    (LTX, SMALL[LTX], 33, {"framewise": True}),
    (HUNYUAN, SMALL[HUNYUAN], 13, {}),
    (HUNYUAN, SMALL[HUNYUAN], 17, {}),
    (HUNYUAN, SMALL[HUNYUAN], 41, {}),
    (HUNYUAN, SMALL[HUNYUAN], 37, {"tiling": True, "tiles": {"tile_sample_min_width": 16}}),
]
NAMES = ["wan", "wan2.2", "ltx", "ltx0.9.5", "ltx-framewise", *4 * ["hunyuan"]]


@pytest.mark.parametrize(("name", "config", "frames", "more"), STREAMED, ids=NAMES)
def test_a_long_clip_streams_to_the_same_latents(
    name: str, config: dict[str, Any], frames: int, more: dict[str, Any]
) -> None:
    """Two clips in turns, in uneven pieces, give what diffusers gives for each in one pass."""
    encoder: Any = small(name, config, **more).load()
    assert _streams(encoder)
    height, width = SIDES[name]
    shape = (2, frames, 2 * height, 2 * width, 3)
    views = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    streams = [encoder.open_stream() for _ in views]
    cuts = [0, 1, 4, frames // 2, frames]
    for start, stop in itertools.pairwise(cuts):
        for stream, clip in zip(streams, views, strict=True):
            stream.push(clip[start:stop])
    with torch.inference_mode():
        posterior = encoder.network.vae.encode(encoder.preprocess(views)).latent_dist
    expected = posterior.mean.permute(0, 2, 3, 4, 1).numpy()
    scale = float(expected.std())
    assert scale > 1e-3
    for stream, latent, clip in zip(streams, expected, views, strict=True):
        got = stream.finish()["video"]
        assert got.shape == (1, *latent.shape)
        np.testing.assert_allclose(got[0], latent, atol=1e-4 * scale, rtol=0)
        alone = encoder.encode(encoder.preprocess(clip[None]))["video"]
        np.testing.assert_array_equal(got, alone)


@pytest.mark.parametrize(
    ("name", "more"),
    [(HUNYUAN, {"framewise": False}), (WAN, {"tiling": True}), (LTX, {"tiling": True})],
)
def test_what_needs_the_whole_clip_does_not_stream(name: str, more: dict[str, Any]) -> None:
    """Norms over all of time, and tiles of space around parts of time, are not streamed."""
    assert not _streams(small(name, **more).load())


def test_tiles_change_latents_and_slices_do_not() -> None:
    """Framewise tiles and spatial tiles are other latents; one clip at a time is the same."""
    views = clips(HUNYUAN, 21, 2)

    def latents(**more: Any) -> Any:
        encoder: Any = small(HUNYUAN, **more).load()
        return encoder.encode(encoder.preprocess(views))["video"]

    plain = latents(framewise=False)
    sizes = {"tile_sample_min_width": 16, "tile_sample_stride_width": 8}
    assert np.abs(latents() - plain).max() > 0.01
    assert np.abs(latents(framewise=False, tiling=True, tiles=sizes) - plain).max() > 0.01
    sliced = latents(framewise=False, slicing=True)
    np.testing.assert_allclose(sliced, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [WAN, LTX])
def test_slices_have_memories_of_their_own(name: str) -> None:
    """Clips that go one by one, in parts, do not see each other."""
    frames = 9 if name == WAN else 17
    views = clips(name, frames, 2)
    plain: Any = small(name).load()
    sliced: Any = small(name, slicing=True).load()
    one = plain.encode(plain.preprocess(views))["video"]
    two = sliced.encode(sliced.preprocess(views))["video"]
    np.testing.assert_allclose(one, two, atol=1e-5, rtol=0)
    assert sliced.decode({"video": two}).shape == views.shape


def test_a_conditioned_decoder_with_noise_repeats_itself() -> None:
    """LTX 0.9.5 decodes at timestep 0, with noise that is the same every time."""
    encoder: Any = small(LTX, LTX_095).load()
    tokens = encoder.encode(encoder.preprocess(clips(LTX, 9)))
    before = torch.random.get_rng_state()
    first = encoder.decode(tokens)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(5)
    np.testing.assert_array_equal(encoder.decode(tokens), first)
    assert first.shape == (1, 9, *SIDES[LTX], 3)


@pytest.mark.parametrize(("name", "frames"), [(WAN, 4), (WAN, 16), (HUNYUAN, 3), (LTX, 5)])
def test_other_lengths_are_refused(name: str, frames: int) -> None:
    """By the spec before any work, and by encoder and stream: nothing is dropped in silence."""
    encoder: Any = small(name).load()
    views = clips(name, frames)
    with pytest.raises(JobError, match=r"view\.frames"):
        small(name).spec(views.shape[1:4])
    with pytest.raises(ValueError, match="takes clips of"):
        encoder.encode(encoder.preprocess(views))
    if _streams(encoder):
        stream = encoder.open_stream()
        stream.push(views[0])
        with pytest.raises(ValueError, match="takes clips of"):
            stream.finish()


def test_the_latent_says_how_the_model_scales() -> None:
    """Wan and Hunyuan by their configuration, LTX by statistics in its weights."""
    wan = small(WAN, WAN_22).spec(None)["video"].latent
    assert wan is not None
    assert (wan.scale, wan.shift) == (6 * (0.5,), 6 * (0.5,))
    hunyuan = small(HUNYUAN).spec(None)["video"].latent
    assert hunyuan is not None
    assert (hunyuan.scale, hunyuan.shift) == ((0.476986,), (0.0,))
    with pytest.raises(JobError, match="z_dim = 8"):
        small(WAN, {"base_dim": 4, "z_dim": 8}).spec(None)


@pytest.mark.parametrize("end", ["safetensors", "pt"])
def test_ltx_keeps_its_statistics_in_the_weights(end: str, tmp_path: Path) -> None:
    """They are read without loading the network; where they are missing, they are 0 and 1."""
    encoder: Any = small(LTX).load()
    state = {k: v.contiguous() for k, v in encoder.network.vae.state_dict().items()}
    assert float(state["latents_std"].min()) == 1.0
    state |= {"latents_mean": torch.arange(6.0), "latents_std": torch.full((6,), 4.0)}
    path = tmp_path / f"vae.{end}"
    config = SMALL[LTX] | {"scaling_factor": 2.0}

    def written(weights: dict[str, torch.Tensor]) -> DiffusersVideoVae:
        save_file(weights, path) if end == "safetensors" else torch.save(weights, path)
        described: DiffusersVideoVae = Vae(str(path), LTX, config)
        return described

    latent = written(state).spec(None)["video"].latent
    assert latent is not None
    assert latent.shift == tuple(map(float, range(6)))
    assert latent.scale == 6 * (0.5,)
    bare = written({k: v for k, v in state.items() if not k.startswith("latents_")})
    latent = bare.spec(None)["video"].latent
    assert latent is not None
    assert (latent.scale, latent.shift) == ((2.0,), (0.0,))
    loaded: Any = bare.load()
    assert loaded.network.vae.latents_std.tolist() == 6 * [1.0]


def test_a_folder_says_its_class_and_may_lack_the_decoder(tmp_path: Path) -> None:
    """config.json names the class; encoder weights alone encode."""
    encoder: Any = small(WAN).load()
    state = {k: v.contiguous() for k, v in encoder.network.vae.state_dict().items()}
    kept = {k: v for k, v in state.items() if not k.startswith(("decoder.", "post_quant_conv."))}
    save_file(kept, tmp_path / "diffusion_pytorch_model.safetensors")
    config = SMALL[WAN] | {"_class_name": WAN, "_diffusers_version": "0.33.0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded: Any = DiffusersVideoVae(str(tmp_path)).load()
    views = clips(WAN, 5)
    tokens = loaded.encode(loaded.preprocess(views))
    expected = encoder.encode(encoder.preprocess(views))["video"]
    np.testing.assert_array_equal(tokens["video"], expected)
    with pytest.raises(JobError, match="no decoder"):
        loaded.decode(tokens)


def test_mistakes_are_told(tmp_path: Path) -> None:
    """Of class, keys, flags and tiles; and weights of something else."""
    for variant, config, more, text in (
        ("", {"z_dim": 4}, {}, "this wraps"),
        (WAN, SMALL[WAN], {"framewise": True}, "no tiles of time"),
        (WAN, SMALL[WAN], {"tiles": {"tile_sample_min_hight": 8}}, "tile_sample_min_height"),
        (WAN, SMALL[WAN], {"tiles": {"tile_sample_min_height": 0}}, "positive"),
        (WAN, {"temperal_downsample": [False, False, True]}, {}, "halve time twice"),
    ):
        tokenizer = Vae("random:0", variant, config, **more)
        with pytest.raises(JobError, match=text):
            _ = tokenizer.identity, tokenizer.spec(None)
    with pytest.raises(JobError, match="base_dim"):
        small(WAN, {"base_dimm": 4}).load()
    save_file({"encoder.conv_in.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        Vae(str(tmp_path / "x.safetensors"), WAN, SMALL[WAN]).load()


def test_the_identity_tells_what_changes_a_latent() -> None:
    """Flags and sizes of tiles, library, weights, what is stored; a default said aloud is equal."""
    base = small(HUNYUAN)
    assert base.identity["diffusers"] == diffusers.__version__
    assert digest(small(HUNYUAN, framewise=True).identity) == digest(base.identity)
    others = [
        small(HUNYUAN, framewise=False),
        small(HUNYUAN, tiling=True),
        small(HUNYUAN, slicing=True),
        small(HUNYUAN, tiles={"tile_sample_stride_num_frames": 8}),
        small(HUNYUAN, posterior="mean_logvar"),
        small(HUNYUAN, latent_dtype="float16"),
        small(HUNYUAN, dtype="bfloat16"),
        Vae("random:1", HUNYUAN, SMALL[HUNYUAN]),
    ]
    assert len({digest(t.identity) for t in (base, *others)}) == 9
    assert pickle.loads(pickle.dumps(base)) == base


def test_describing_it_does_not_import_diffusers() -> None:
    """Importing diffusers takes seconds; identity and spec do without."""
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer;"
        "t = open_tokenizer('diffusers_video_vae', variant='AutoencoderKLWan',"
        " checkpoint='random:0'); t.identity; t.spec((17, 64, 64)); t.resources;"
        "print([m for m in ('diffusers', 'torch') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"


def test_latents_may_be_stored_in_half_precision() -> None:
    """float16 is the float32 latent, rounded."""
    views = clips(WAN, 5)
    wide: Any = small(WAN).load()
    half: Any = open_tokenizer(
        "diffusers_video_vae",
        variant=WAN,
        checkpoint="random:0",
        config=SMALL[WAN],
        latent_dtype="float16",
    ).load()
    expected = wide.encode(wide.preprocess(views))["video"].astype(np.float16)
    got = half.encode(half.preprocess(views))["video"]
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, expected)
