import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.patch_vq import VIDEO_WEIGHTS, WEIGHTS, PatchVQ, TubeEncoder
from tokenmill.tokenizers.patch_vq_codebook import (
    BASIS_BITS,
    Codebook,
    from_tubes,
    load_codebook,
    to_tubes,
)
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import CheckpointError, JobError

Pixels = npt.NDArray[np.uint8]
SAMPLES = Path(__file__).parents[3] / "pipelines/samples/images/photos"


@pytest.fixture(scope="module")
def encoder() -> TubeEncoder:
    """The shipped quantizer of clips."""
    loaded = PatchVQ(variant="video").load()
    assert isinstance(loaded, TubeEncoder)
    return loaded


def _pan(name: str, frames: int, *, step: float = 1.5, size: int = 128) -> Pixels:
    """A camera that moves slowly to the right over a photograph."""
    image = Image.open(SAMPLES / name).convert("RGB")
    boxes = [(10 + step * t, 20.0, 10 + step * t + size, 20.0 + size) for t in range(frames)]
    return np.stack([np.asarray(image.resize((size, size), 3, box=box)) for box in boxes])


def _psnr(one: Pixels, other: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


def _reference_ids(clip: Pixels, book: Codebook) -> npt.NDArray[np.int64]:
    """The definition, in int64 and one tube at a time."""
    sizes = clip.shape[0] // 4, clip.shape[1] // 8, clip.shape[2] // 8
    basis, codes = book.basis.astype(np.int64), book.codes.astype(np.int64)
    ids = np.empty(sizes, np.int64)
    for t, y, x in np.ndindex(sizes):
        tube = clip[4 * t : 4 * t + 4, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].astype(np.int64) - 128
        features = (basis @ tube.ravel() + 2 ** (BASIS_BITS - 1)) >> BASIS_BITS
        ids[t, y, x] = np.square(codes - features).sum(1).argmin()
    return ids


@pytest.mark.parametrize("what", ["a pan", "noise and extremes"])
def test_ids_are_those_of_integer_arithmetic(encoder: TubeEncoder, what: str) -> None:
    """Float32 products give exactly the ids of the definition in 64-bit integers."""
    clip = _pan("stream.jpg", 8, size=48)
    if what != "a pan":
        clip = np.random.default_rng(0).choice([0, 255], clip.shape).astype(np.uint8)
        clip[:, :8], clip[:, 8:16] = 0, 255
    ids = encoder.encode(encoder.preprocess(clip[None]))["video"][0]
    np.testing.assert_array_equal(ids, _reference_ids(clip, load_codebook(VIDEO_WEIGHTS)))
    assert len(np.unique(ids)) > 20


@settings(max_examples=20, deadline=None)
@given(st.tuples(*(4 * [st.integers(1, 3)])), st.integers(0, 99))
def test_tubes_fold_back(sizes: tuple[int, int, int, int], seed: int) -> None:
    """Cutting into tubes and joining them is the identity, and a tube is one place's frames."""
    count, slots, rows, columns = sizes
    shape = (count, 4 * slots, 8 * rows, 8 * columns, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    tubes = to_tubes(pixels)
    assert tubes.shape == (count, slots, rows, columns, 768)
    np.testing.assert_array_equal(from_tubes((tubes + 128).astype(np.uint8)), pixels)
    last = pixels[-1, -4:, -8:, -8:].astype(np.float32) - 128
    np.testing.assert_array_equal(tubes[-1, -1, -1, -1], last.ravel())


def test_a_clip_streams_to_the_same_ids(encoder: TubeEncoder) -> None:
    """Pieces of any length, two clips in turns and batches give one answer."""
    clips = np.stack([_pan("stream.jpg", 44, size=32), _pan("sunset.jpg", 44, size=32)])
    whole = encoder.encode(encoder.preprocess(clips))["video"]
    assert isinstance(encoder, StreamingEncoder)
    streams = [encoder.open_stream() for _ in clips]
    for start, stop in ((0, 1), (1, 7), (7, 40), (40, 44)):
        for stream, clip in zip(streams, clips, strict=True):
            stream.push(clip[start:stop])
    for stream, ids, clip in zip(streams, whole, clips, strict=True):
        tokens = stream.finish()["video"]
        np.testing.assert_array_equal(tokens[0], ids)
        assert tokens.dtype == ids.dtype == "uint16"
        alone = encoder.encode(encoder.preprocess(clip[None]))["video"]
        np.testing.assert_array_equal(alone[0], ids)


def test_a_stream_does_not_see_what_happens_to_frames_later(encoder: TubeEncoder) -> None:
    """A caller may reuse its buffer after a push, as decoders do."""
    clip = _pan("stream.jpg", 8, size=32)
    stream, buffer = encoder.open_stream(), np.empty((1, 32, 32, 3), np.uint8)
    for frame in clip:
        buffer[0] = frame
        stream.push(buffer)
    expected = encoder.encode(encoder.preprocess(clip[None]))["video"]
    np.testing.assert_array_equal(stream.finish()["video"], expected)


@pytest.mark.parametrize("frames", [2, 3, 5, 6])
def test_other_lengths_are_refused(encoder: TubeEncoder, frames: int) -> None:
    """By the spec before any work, and by encoder and stream."""
    clip = np.zeros((1, frames, 16, 16, 3), np.uint8)
    with pytest.raises(JobError, match=r"4 \+ 4k frames"):
        PatchVQ(variant="video").spec((frames, 16, 16))
    with pytest.raises(ValueError, match=r"4 \+ 4k frames"):
        encoder.preprocess(clip)
    stream = encoder.open_stream()
    stream.push(clip[0])
    with pytest.raises(ValueError, match="multiple of 4"):
        stream.finish()
    with pytest.raises(ValueError, match="no frames"):
        encoder.open_stream().finish()


def test_a_picture_is_a_clip_that_stands_still(encoder: TubeEncoder) -> None:
    """A clip of one frame has the ids of that frame four times over, and one slot of time."""
    frame = _pan("sunset.jpg", 1)[None]
    one = encoder.encode(encoder.preprocess(frame))["video"]
    four = encoder.encode(encoder.preprocess(frame.repeat(4, axis=1)))["video"]
    np.testing.assert_array_equal(one, four)
    assert PatchVQ(variant="video").spec((1, 128, 128))["video"].shape == one.shape[1:]


@pytest.mark.parametrize(("name", "floor_db"), [("sunset.jpg", 28.0), ("stream.jpg", 18.0)])
def test_reconstructions_keep_their_quality(
    encoder: TubeEncoder, name: str, floor_db: float
) -> None:
    """PSNR of pans over shipped photographs stays above what the shipped weights reach."""
    clip = _pan(name, 16)[None]
    back = encoder.decode(encoder.encode(encoder.preprocess(clip)))
    assert back.shape == clip.shape
    assert _psnr(back, clip) > floor_db


def test_flat_colours_stay_flat(encoder: TubeEncoder) -> None:
    """A flat clip comes back within a few levels, without a visible grid."""
    for level in (0, 128, 255):
        clip = np.full((1, 8, 32, 32, 3), level, np.uint8)
        back = encoder.decode(encoder.encode(encoder.preprocess(clip))).astype(int)
        assert abs(back - level).max() <= 10
        assert np.ptp(back) <= 10


def test_the_variants_are_two_tokenizers() -> None:
    """They take different views, have different identities, and refuse each other's weights."""
    image, video = open_tokenizer("patch_vq"), open_tokenizer("patch_vq", variant="video")
    assert (image.takes, video.takes) == (("image",), ("clip",))
    assert digest(image.identity) != digest(video.identity)
    assert video.spec((None, 64, None))["video"].shape == (None, 8, None)
    assert video.spec((16, 64, 32))["video"].shape == (4, 8, 4)
    assert video.spec(None)["video"].shape == (None, None, None)
    assert not isinstance(image.load(), StreamingEncoder)
    assert pickle.loads(pickle.dumps(video)) == video
    with pytest.raises(JobError, match="multiples of 8"):
        video.spec((16, 60, 64))
    for variant, weights in (("video", WEIGHTS), ("image", VIDEO_WEIGHTS)):
        with pytest.raises(CheckpointError, match="is a codebook of variant"):
            open_tokenizer("patch_vq", variant=variant, checkpoint=str(weights)).load()


def test_the_shipped_weights_are_small() -> None:
    """Both forms together stay below a megabyte."""
    assert WEIGHTS.stat().st_size + VIDEO_WEIGHTS.stat().st_size < 1_000_000
