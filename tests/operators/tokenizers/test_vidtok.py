import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.shards.columns import encode_streams
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.networks import vidtok as networks
from tokenmill.tokenizers.networks.vidtok_config import VARIANTS, official_checkpoint
from tokenmill.tokenizers.networks.vidtok_stream import CausalEncoder, VidTokStream
from tokenmill.tokenizers.vidtok import VidTok
from tokenmill.views.clips import Clips
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import CheckpointError, JobError

#: Three levels of eight channels: 4 x 4 pixels per position.
TINY: dict[str, Any] = {"ch": 8, "ch_mult": (1, 1, 1), "num_res_blocks": 1}
#: The same with a fourth level and eight frames per position.
EIGHT = TINY | {"ch_mult": (1, 1, 1, 1)}
CAUSAL = {"488-4096": TINY, "v1.1-488-32768": TINY, "v1.1-888-32768": EIGHT}


def tiny(variant: str, **more: Any) -> VidTok:
    """A small tokenizer of a variant."""
    return VidTok(variant, "random:0", config=CAUSAL.get(variant, TINY), **more)


def clips(length: int, count: int = 1, *, seed: int = 0, side: int = 16) -> Any:
    """Noise on moving stripes."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 120, (count, length, side, side, 3))
    stripes = (np.arange(side)[:, None] + 3 * np.arange(length)[:, None, None]) % 16 < 8
    return (frames + 130 * stripes[None, ..., None]).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CAUSAL)
def causal(request: pytest.FixtureRequest) -> Any:
    """A live encoder of every kind of causal network."""
    return tiny(request.param).load()


@pytest.mark.parametrize(
    ("variant", "shape", "grid", "bits"),
    [
        ("488-4096", (17, 256, 256), (5, 32, 32), 12),
        ("488-32768", (1, 64, 128), (1, 8, 16), 15),
        ("488-262144", (256, 256), (1, 32, 32), 18),
        ("41616-262144", (17, 256, 256), (5, 16, 16), 18),
        ("noncausal-488-262144", (16, 256, 256), (4, 32, 32), 18),
        ("noncausal-41616-262144", (16, 256, 256), (4, 16, 16), 18),
        ("v1.1-488-32768", (None, 256, 256), (None, 32, 32), 15),
        ("v1.1-888-32768", (33, 256, 256), (5, 32, 32), 15),
        ("v1.1-41616-262144", None, (None, None, None), 18),
    ],
)
def test_the_spec_is_the_grid_of_the_variant(
    variant: str, shape: Any, grid: tuple[int | None, ...], bits: int
) -> None:
    """Positions by time, rows and columns; the id's width is the codebook's."""
    stream = VidTok(variant, "random:0").spec(shape)["video"]
    assert [axis.name for axis in stream.axes] == ["t", "h", "w"]
    assert (stream.shape, stream.bits_per_token, stream.order) == (grid, bits, "raster")


@pytest.mark.parametrize(
    ("variant", "shape", "message"),
    [
        ("488-4096", (16, 256, 256), r"view\.frames: .*takes clips of 1 \+ 4k frames .*, got 16"),
        ("v1.1-888-32768", (21, 256, 256), r"takes clips of 1 \+ 8k frames .*, got 21"),
        ("noncausal-488-262144", (17, 256, 256), r"takes clips of 4 \+ 4k frames .*, got 17"),
        ("41616-262144", (17, 256, 248), r"view\.size: .*one of 16, got 256 x 248"),
    ],
)
def test_clips_that_do_not_fit_are_an_error_of_the_job(
    variant: str, shape: Any, message: str
) -> None:
    """Also lengths that the authors' code pads: nothing in the ids would tell by how much."""
    with pytest.raises(JobError, match=message):
        VidTok(variant, "random:0").spec(shape)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_default_view_fits(variant: str) -> None:
    """It is a view that there is, and its clips have a length that the variant takes."""
    tokenizer = VidTok(variant, "random:0")
    view = Clips(**{k: v for k, v in tokenizer.default_view.items() if k != "kind"})
    length = {"v": 33, "n": 16}.get(variant[0], 17)
    assert view.shape == (length, 256, 256)
    assert tokenizer.spec(view.shape).streams[0].is_fixed
    assert ("image" in tokenizer.takes) == (not variant.startswith("noncausal"))
    assert view.gives in tokenizer.takes


def test_the_official_checkpoints_are_named_as_published() -> None:
    """Under ``checkpoints`` of the authors' repository; v1.1 in a folder of its own."""
    root = "hf://microsoft/VidTok/checkpoints"
    assert [official_checkpoint(name) for name in VARIANTS] == [
        f"{root}/vidtok_fsq_causal_488_4096.ckpt",
        f"{root}/vidtok_fsq_causal_488_32768.ckpt",
        f"{root}/vidtok_fsq_causal_488_262144.ckpt",
        f"{root}/vidtok_fsq_causal_41616_262144.ckpt",
        f"{root}/vidtok_fsq_noncausal_488_262144.ckpt",
        f"{root}/vidtok_fsq_noncausal_41616_262144.ckpt",
        f"{root}/vidtok_v1_1/vidtok_fsq_causal_488_32768_v1_1.ckpt",
        f"{root}/vidtok_v1_1/vidtok_fsq_causal_888_32768_v1_1.ckpt",
        f"{root}/vidtok_v1_1/vidtok_fsq_causal_41616_262144_v1_1.ckpt",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "488-32678"}, r"tokenizer\.variant: is '488-32678'; did you mean '488-32768'"),
        ({"config": {"chanels": 8}}, r"tokenizer\.config\.chanels: unknown key"),
        ({"config": {"ch_mult": (1, 2)}}, "three levels of ch_mult or more"),
        ({"config": {"tempo_ds": (0, 1, 2)}}, "same number of levels"),
        ({"config": {"tempo_ds": (2, 3)}}, "tempo_ds must lie below 3"),
        ({"config": {"tempo_us": (0, 1)}}, "tempo_us must lie between 1 and 3"),
    ],
)
def test_a_wrong_description_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    """Before anything is loaded, and with the key at fault."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("vidtok", checkpoint="random:0", **options)


def test_a_description_is_small_picklable_and_needs_no_torch() -> None:
    """It crosses processes, and planning must not import a framework."""
    tokenizer = tiny("488-4096")
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer as o; "
        "o('vidtok', checkpoint='random:0').spec((17, 64, 64)); "
        "o('larp', checkpoint='random:0').spec((16, 128, 128)); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_identity_changes_with_whatever_changes_an_id() -> None:
    """Version, weights, sizes and arithmetic; the same description has the same one."""
    described = [
        tiny("488-4096"),
        tiny("noncausal-488-262144"),
        tiny("v1.1-488-32768"),
        VidTok("488-4096", "random:1", config=TINY),
        VidTok("488-4096", "random:0", config=TINY | {"time_padding": "first"}),
        tiny("488-4096", dtype="bfloat16"),
    ]
    assert len({digest(tokenizer.identity) for tokenizer in described}) == len(described)
    assert tiny("488-4096").identity == described[0].identity


def test_clips_become_ids_that_do_not_depend_on_their_batch(causal: Any) -> None:
    """Shape, type and range as the spec says, many different ids, each clip for itself."""
    config = causal.network.config
    views = clips(1 + 3 * config.time_factor, 3)
    ids = causal.encode(causal.preprocess(views))["video"]
    side = 16 // config.factor
    assert ids.shape == (3, 4, side, side)
    assert ids.dtype == np.uint16
    assert len(np.unique(ids)) > ids.size // 4
    encode_streams(ShardLayout(causal.spec), {"video": list(ids)})
    alone = [causal.encode(causal.preprocess(view[None]))["video"] for view in views]
    assert np.array_equal(np.concatenate(alone), ids)


def test_an_image_is_the_first_position_of_a_clip(causal: Any) -> None:
    """No frame of a causal network depends on a later one."""
    views = clips(9, 2)
    ids = causal.encode(causal.preprocess(views))["video"]
    images = causal.encode(causal.preprocess(views[:, 0]))["video"]
    assert np.array_equal(images, ids[:, :1])


def test_a_network_that_is_not_causal_sees_all_frames() -> None:
    """There a change of the last frame changes the first position; and it cannot stream."""
    encoder = tiny("noncausal-488-262144").load()
    assert not isinstance(encoder, StreamingEncoder)
    views = clips(16)
    ids = encoder.encode(encoder.preprocess(views))["video"]
    assert ids.shape == (1, 4, 4, 4)
    views[:, -1] = 255 - views[:, -1]
    changed = encoder.encode(encoder.preprocess(views))["video"] != ids
    assert changed.any(axis=(0, 2, 3)).all()
    assert encoder.decode({"video": ids}).shape == views.shape


@pytest.mark.parametrize("seed", range(4))
def test_frames_in_any_portions_give_the_ids_of_one_pass(causal: Any, seed: int) -> None:
    """Portions of random sizes, none and many frames among them."""
    assert isinstance(causal, StreamingEncoder)
    rng = np.random.default_rng(seed)
    views = clips(1 + 8 * int(rng.integers(0, 9)), seed=seed)
    cuts = np.sort(rng.integers(0, views.shape[1] + 1, int(rng.integers(0, 20))))
    stream = causal.open_stream()
    for portion in np.split(views[0], cuts):
        buffer = portion.copy()
        stream.push(buffer)
        buffer[...] = 0  # the caller may use its memory for the next frames
    ids = stream.finish()["video"]
    whole = causal.encode(causal.preprocess(views))["video"]
    assert ids.dtype == whole.dtype
    assert np.array_equal(ids, whole)


def test_streams_do_not_disturb_each_other(causal: Any) -> None:
    """Two clips and a whole encode go through one network in turns."""
    views = clips(33, 2)
    whole = causal.encode(causal.preprocess(views))["video"]
    streams = [causal.open_stream() for _ in views]
    for start in range(0, 33, 5):
        for stream, view in zip(streams, views, strict=True):
            stream.push(view[start : start + 5])
            causal.encode(causal.preprocess(clips(1)))
    ids = [stream.finish()["video"] for stream in streams]
    assert np.array_equal(np.concatenate(ids), whole)


@pytest.mark.parametrize("part", [8, 16, 1000])
def test_parts_of_any_length_are_the_whole_clip(
    causal: Any, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What layers remember makes up for the cut: latents agree to rounding, both ways."""
    inputs = causal.preprocess(clips(65, 2))
    with torch.inference_mode():
        monkeypatch.setattr(networks, "PART_FRAMES", 72)
        monkeypatch.setattr(networks, "PART_SLOTS", 1000)
        latents, tokens = causal.network.latents(inputs), causal.network.tokens(inputs)
        frames = causal.network.clips(tokens)
        monkeypatch.setattr(networks, "PART_FRAMES", part)
        monkeypatch.setattr(networks, "PART_SLOTS", max(2, part // 4))
        again = causal.network.latents(inputs)
        torch.testing.assert_close(again, latents, rtol=0, atol=1e-5 * float(latents.std()))
        assert torch.equal(causal.network.tokens(inputs)["video"], tokens["video"])
        other = causal.network.clips(tokens)
    torch.testing.assert_close(other, frames, rtol=0, atol=1e-4 * float(frames.std()))


def test_a_long_stream_needs_no_more_memory_than_a_short_one(causal: Any) -> None:
    """Neither waiting frames nor what layers keep grow with the clip, however it is pushed."""
    stream = cast("CausalEncoder", causal).open_stream()
    kept = set()
    for portion in (9, 64, 3, 500, 1):
        stream.push(clips(portion)[0])
        waiting = cast("np.ndarray[Any, Any]", stream._waiting)
        assert len(waiting) < networks.PART_FRAMES
        assert waiting.base is None
        tensors = stream._past._kept.values()
        kept.add(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    assert len(kept) == 1
    assert stream.finish()["video"].shape[1] == 1 + 576 // causal.network.config.time_factor


def test_a_stream_refuses_what_it_cannot_tokenize() -> None:
    """Lengths that do not fit, frames of another size, anything after the end."""
    encoder = cast("CausalEncoder", tiny("v1.1-488-32768").load())
    with pytest.raises(ValueError, match=r"takes clips of 1 \+ 4k frames .*, got 0"):
        encoder.open_stream().finish()
    stream = encoder.open_stream()
    stream.push(clips(16)[0])
    with pytest.raises(ValueError, match=r"takes clips of 1 \+ 4k frames .*, got 16"):
        stream.finish()
    with pytest.raises(ValueError, match="frames must be"):
        stream.push(clips(1, side=32)[0])
    stream.push(clips(1)[0])
    assert stream.finish()["video"].shape == (1, 5, 4, 4)
    with pytest.raises(ValueError, match="this stream is finished"):
        stream.push(clips(4)[0])
    with pytest.raises(ValueError, match="this stream is finished"):
        stream.finish()


def test_one_pass_refuses_other_lengths(causal: Any) -> None:
    """As the spec does, if somebody goes around it."""
    with pytest.raises(ValueError, match="takes clips of 1"):
        causal.encode(causal.preprocess(clips(12)))


def test_ids_become_as_many_frames_as_were_encoded(causal: Any) -> None:
    """The frames that only filled the first position are left out; an image is one frame."""
    for length in (1, 1 + 6 * causal.network.config.time_factor):
        views = clips(length, 2)
        frames = causal.decode(causal.encode(causal.preprocess(views)))
        assert frames.shape == views.shape
        assert frames.dtype == np.uint8
        assert frames.std() > 1


def test_reduced_precision_gives_ids_too() -> None:
    """bfloat16 flips near-ties and nothing else; the quantizer has float32."""
    views = clips(9)
    exact, fast = (tiny("v1.1-488-32768", dtype=d).load() for d in ("float32", "bfloat16"))
    ids, other = (e.encode(e.preprocess(views))["video"] for e in (exact, fast))
    assert other.shape == ids.shape
    assert 0 < (ids == other).mean() < 1
    digits = (
        np.stack([i.astype(int) >> shift & 7 for shift in (0, 3, 6, 9, 12)]) for i in (ids, other)
    )
    assert np.abs(np.subtract(*digits)).max() <= 1


def test_a_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    """Shapes differ, and the error says which."""
    path = tmp_path / "other.safetensors"
    network = tiny("488-4096").load().network  # type: ignore[attr-defined]
    save_file(network.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"encoder\.conv_out\.conv\.weight must be \(5,"):
        VidTok("488-32768", str(path), config=TINY).load()


def test_the_stream_is_of_the_encoder(causal: Any) -> None:
    """Each call opens another one."""
    first, second = causal.open_stream(), causal.open_stream()
    assert isinstance(first, VidTokStream)
    assert first is not second
