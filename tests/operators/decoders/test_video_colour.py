from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.decoders.video import VideoDecoder
from tokenmill.decoders.video_colour import (
    ColourError,
    Converter,
    Turn,
    matrix_of,
    over,
    square_size,
    turn_of,
)
from tokenmill.testing.clips import ClipSpec, clip, pattern
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason

Pixels = npt.NDArray[np.uint8]
#: Luma weights of red and blue: ITU-R BT.601, BT.709, BT.2020, SMPTE 240M, FCC.
WEIGHTS = {6: (0.299, 0.114), 5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}
WEIGHTS |= {7: (0.212, 0.087), 4: (0.30, 0.11)}


def formula(yuv: npt.NDArray[Any], matrix: int, *, full: bool, bits: int = 8) -> Pixels:
    """ITU-R's equations in floating point: ``yuv[3, H, W]`` to ``uint8[H, W, 3]``."""
    red, blue = WEIGHTS[matrix]
    unit = 2 ** (bits - 8)
    low, luma, chroma = (0, 255, 255) if full else (16, 219, 224)
    if full and bits > 8:
        luma = chroma = (2**bits - 1) / unit
    y = (yuv[0] / unit - low) / luma
    cb, cr = (yuv[1] / unit - 128) / chroma, (yuv[2] / unit - 128) / chroma
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    rgb = np.stack([r, g, b], axis=-1) * 255
    rounded: Pixels = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded


def frame_444(matrix: int, *, full: bool, bits: int = 8, size: tuple[int, int] = (32, 64)) -> Any:
    """A frame of plausible noise, and its planes."""
    rng = np.random.default_rng(3)
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    yuv = (rng.integers(64, 190, (3, *size)) << (bits - 8)).astype(dtype)
    frame = av.VideoFrame(size[1], size[0], "yuv444p" if bits == 8 else f"yuv444p{bits}le")
    for plane, values in zip(frame.planes, yuv, strict=True):
        padded = np.zeros((size[0], plane.line_size // values.itemsize), dtype)
        padded[:, : size[1]] = values
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame, yuv


def converted(frame: av.VideoFrame, **options: Any) -> Pixels:
    """The frame through the exact path."""
    size = frame.height, frame.width
    background = options.pop("background", (255, 255, 255))
    return Converter(size, Turn(), background, **{"chroma": "bilinear"} | options).upright(frame)


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_are_those_of_the_standard(matrix: int, full: bool, bits: int) -> None:
    """Every matrix and range gives the standard's colours to within one step of rounding."""
    frame, yuv = frame_444(matrix, full=full, bits=bits)
    difference = converted(frame).astype(int) - formula(yuv, matrix, full=full, bits=bits)
    assert np.abs(difference).max() <= 1
    other = formula(yuv, 1 if matrix != 1 else 6, full=full, bits=bits)
    if matrix in (1, 5, 6, 9):
        assert np.abs(converted(frame).astype(int) - other).max() > 3


@pytest.mark.parametrize(
    ("size", "matrix"), [((576, 720), 6), ((720, 960), 1), ((480, 1280), 1), ((1080, 1920), 1)]
)
def test_unstated_matrices_go_by_size(size: tuple[int, int], matrix: int) -> None:
    """BT.601 for small frames, BT.709 from 720 lines or 1,280 columns."""
    frame, yuv = frame_444(2, full=False, size=size)
    difference = converted(frame).astype(int) - formula(yuv, matrix, full=False)
    assert np.abs(difference).max() <= 1


def test_unstated_range_is_limited() -> None:
    """A stream that states no range is limited; JPEG's formats are full."""
    frame, yuv = frame_444(6, full=False)
    frame.color_range = 0
    assert np.abs(converted(frame).astype(int) - formula(yuv, 6, full=False)).max() <= 1
    jpeg = av.VideoFrame(64, 32, "yuvj444p")
    for plane, values in zip(jpeg.planes, yuv, strict=True):
        plane.update(values.tobytes())
    assert np.abs(converted(jpeg).astype(int) - formula(yuv, 6, full=True)).max() <= 1


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_unknown_matrices_are_refused(matrix: int) -> None:
    """YCgCo, constant luminance and ICtCp have no exact conversion here."""
    frame, _ = frame_444(matrix, full=False)
    with pytest.raises(ColourError, match=f"matrix {matrix}"):
        matrix_of(frame)


def test_a_stream_of_an_unknown_matrix_is_unsupported() -> None:
    """The refusal names the asset, at once."""
    spec = ClipSpec(frames=2, pixel_format="yuv444p", options={"x264-params": "colormatrix=YCgCo"})
    with pytest.raises(AssetError) as caught:
        VideoDecoder().decode(AssetRef("k", "mem://a"), io.BytesIO(clip(spec)))
    assert caught.value.reason == Reason.UNSUPPORTED
    assert caught.value.uri == "mem://a"


def test_lossless_rgb_is_exact() -> None:
    """RGB codecs give back what was put in."""
    data = clip(ClipSpec("matroska", "ffv1", pixel_format="bgr0", frames=3))
    video = VideoDecoder().decode(AssetRef("k", "m"), io.BytesIO(data))
    for number, frame in enumerate(video.frames()):
        assert np.array_equal(frame.rgb(), pattern(number, (48, 64)))


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [("mov", "qtrle", "argb"), ("webm", "libvpx-vp9", "yuva420p"), ("webm", "libvpx", "yuva420p")],
)
def test_alpha_shows_the_background(container: str, codec: str, pixels: str) -> None:
    """Transparent pixels show the background; WebM's alpha lies beside its frames."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as opened:
        stream: Any = opened.add_stream(codec, rate=25, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        rgba = np.full((48, 64, 4), 200, np.uint8)
        rgba[:, :32, 3], rgba[:, 32:, 3] = 0, 255
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixels)
        opened.mux(stream.encode(frame))
        opened.mux(stream.encode())
    decoder = VideoDecoder(background=(10, 250, 30))
    video = decoder.decode(AssetRef("k", "m"), io.BytesIO(out.getvalue()))
    got = next(video.frames()).rgb().astype(int)
    assert np.abs(got[:, 4:28] - (10, 250, 30)).max() <= 4
    assert np.abs(got[:, 36:60] - 200).max() <= 4


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_alpha_is_rounded_to_the_nearest(colour: int, alpha: int, background: int) -> None:
    """``round((c * a + background * (255 - a)) / 255)``, exactly."""
    pixels = np.array([[[colour, colour, colour, alpha]]], np.uint8)
    mixed = over(pixels, np.full(3, background, np.int32))
    exact = Fraction(colour * alpha + background * (255 - alpha), 255)
    assert mixed.shape == (1, 1, 3)
    assert mixed[0, 0, 0] == round(exact)


@given(st.integers(1, 4000), st.integers(1, 4000), st.fractions(0, 8))
def test_frames_only_grow_to_square_pixels(height: int, width: int, aspect: Fraction) -> None:
    """One side stays, the other grows to within half a pixel of the aspect."""
    tall, wide = square_size((height, width), aspect)
    assert (tall == height and wide >= width) or (wide == width and tall >= height)
    if Fraction(1, 5) <= aspect <= 5:
        error = abs(wide - tall * width * aspect / height)
        assert error <= max(Fraction(1), Fraction(width, height) * aspect) / 2
    else:
        assert (tall, wide) == (height, width)


def test_matrices_of_no_right_angle_turn_nothing() -> None:
    """Any other matrix, or a broken one, leaves the frame."""
    one = 1 << 16
    skew = np.array([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30], np.int32).tobytes()
    quarter = np.array([0, one, 0, -one, 0, 0, 0, 0, 1 << 30], np.int32).tobytes()
    assert turn_of(None) == turn_of(b"") == turn_of(skew) == Turn()
    assert turn_of(bytes(36)) == Turn()
    assert turn_of(quarter) == Turn(90)


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuvj420p"])
def test_nearest_chroma_is_what_other_readers_give(layout: str) -> None:
    """The default is the conversion of PyAV itself, which repeats each sample of chroma."""
    rng = np.random.default_rng(5)
    frame = av.VideoFrame(64, 32, layout)
    for plane in frame.planes:
        plane.update(rng.integers(64, 190, plane.buffer_size, dtype=np.uint8).tobytes())
    frame.colorspace, frame.color_range = 5, 2 if layout.startswith("yuvj") else 1
    got = converted(frame, chroma="nearest")
    assert np.array_equal(got, frame.to_ndarray(format="rgb24"))
    apart = np.abs(got.astype(int) - converted(frame, chroma="bilinear").astype(int))
    assert 0 < apart.mean() < 60


def test_formats_without_a_direct_converter_are_exact_either_way() -> None:
    """Ten bits, full chroma and odd heights give the same by both rules."""
    frame, _ = frame_444(5, full=False)
    assert np.array_equal(converted(frame, chroma="nearest"), converted(frame))
