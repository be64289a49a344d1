"""From a decoded frame to upright 8-bit RGB: one stated rule for every pixel format.

The arithmetic is swscale's, in one pass. 8-bit 4:2:0 and 4:2:2, that is nearly every film, has two
rules. ``nearest`` chroma goes through swscale's direct converter, which repeats each chroma sample
and rounds by tables, at a quarter of the time; it is what PyAV gives by default. Its last bit may
depend on the processor's family. ``bilinear`` chroma, and all other formats, go through its scaler
with the flags that make it exact and the same on every processor (``bitexact``, ``accurate_rnd``,
``full_chroma_int``). For both:

- the matrix is the stream's own; where it states none, BT.709 for frames of at least 720 lines or
  1,280 columns and BT.601 below, as players do. A matrix that swscale lacks (YCgCo, ICtCp,
  constant-luminance BT.2020) is refused, not replaced;
- limited or full range as the stream states, limited where it states none (JPEG's formats: full);
- samples of more than 8 bits are scaled to 8 by swscale; nothing is tone-mapped: PQ and HLG keep
  their curve, and primaries are not converted;
- pixels that are stretched to square are interpolated bilinearly;
- alpha over a background as for pictures: ``round((c * a + background * (255 - a)) / 255)`` on
  straight values (`tokenmill.decoders.modes`);
- interlaced frames are converted as they are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

Pixels = npt.NDArray[np.uint8]
Chroma = Literal["nearest", "bilinear"]

_EXACT = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.BITEXACT
)
_QUICK = Interpolation.BILINEAR | Interpolation.BITEXACT
#: Formats with a direct converter, which swscale takes where no exact rounding is asked for.
_DIRECT = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"})
#: ITU-T H.273 matrix coefficients; 0, 2 and 3 state nothing about a YCbCr frame.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
_UNSTATED = (0, 2, 3)
_HD_HEIGHT, _HD_WIDTH = 720, 1280
#: Wider or narrower pixels are not believed.
_WIDEST_PIXEL = 5
_BAND_ROWS = 64


class ColourError(ValueError):
    """A colour matrix that has no exact conversion here."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How a stored frame becomes upright: mirrored left to right, then turned clockwise."""

    degrees: int = 0
    mirrored: bool = False

    @property
    def swaps(self) -> bool:
        """Whether height and width change places."""
        return self.degrees in (90, 270)

    def apply(self, pixels: Pixels) -> Pixels:
        """Return ``uint8[H, W, 3]`` upright, contiguous."""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, -self.degrees // 90))


def turn_of(matrix: bytes | None) -> Turn:
    """Return the turn that a display matrix (nine little-endian int32, ISO 14496-12) asks for.

    An angle that is no multiple of a right angle turns nothing.
    """
    if matrix is None or len(matrix) < 36:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack_from("=9i", matrix)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if a == d != 0 and b == c == 0:
        return Turn(0 if a > 0 else 180, mirrored)
    if b == -c != 0 and a == d == 0:
        return Turn(90 if b > 0 else 270, mirrored)
    return Turn()


def square_size(size: tuple[int, int], aspect: Fraction | None) -> tuple[int, int]:
    """Return the height and width that show pixels of ``aspect`` (width by height) as squares.

    Frames only grow, so that no sample is lost: wide pixels widen them, tall ones heighten them.
    """
    height, width = size
    if not aspect or not Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL:
        return size
    if aspect >= 1:
        return height, round(width * aspect)
    return round(height / aspect), width


class Converter:
    """Converts the frames of one video; not to be used by two threads at a time."""

    def __init__(
        self,
        size: tuple[int, int],
        turn: Turn,
        background: tuple[int, int, int],
        *,
        chroma: Chroma = "nearest",
    ) -> None:
        self._size, self._turn, self._chroma = size, turn, chroma
        self._background = np.array(background, dtype=np.int32)
        self._exact, self._quick = VideoReformatter(), VideoReformatter()

    def upright(self, frame: VideoFrame) -> Pixels:
        """Return the upright frame, ``uint8[H, W, 3]``.

        Raises:
            ColourError: its colour matrix is not known.
        """
        direct = (
            self._chroma == "nearest"
            and frame.format.name in _DIRECT
            and self._size == (frame.height, frame.width)
            and frame.height % 2 == 0  # swscale's converter wants pairs of lines
        )
        flags = Interpolation.BILINEAR if direct else _EXACT
        return self._turn.apply(self._rgb(self._exact, frame, self._size, flags))

    def quick(self, frame: VideoFrame, size: tuple[int, int]) -> Pixels:
        """Return the upright frame scaled to ``size`` (height, width) by a bilinear filter.

        Raises:
            ColourError: its colour matrix is not known.
        """
        stored = (size[1], size[0]) if self._turn.swaps else size
        return self._turn.apply(self._rgb(self._quick, frame, stored, _QUICK))

    def _rgb(
        self,
        scaler: VideoReformatter,
        frame: VideoFrame,
        size: tuple[int, int],
        flags: Interpolation,
    ) -> Pixels:
        see_through = has_alpha(frame)
        scaled = scaler.reformat(
            frame,
            width=size[1],
            height=size[0],
            format="rgba" if see_through else "rgb24",
            src_colorspace=matrix_of(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=flags,
            threads=1,
        )
        pixels: Pixels = scaled.to_ndarray().astype(np.uint8, copy=False)
        return over(pixels, self._background) if see_through else pixels


def has_alpha(frame: VideoFrame) -> bool:
    """Whether a frame's format can be transparent; a palette's colours can."""
    return frame.format.has_palette or any(c.is_alpha for c in frame.format.components)


def over(pixels: Pixels, background: npt.NDArray[np.int32]) -> Pixels:
    """Lay ``uint8[H, W, 4]`` of straight alpha over a background: ``uint8[H, W, 3]``."""
    if pixels[..., 3].min(initial=255) == 255:
        return np.ascontiguousarray(pixels[..., :3])
    mixed = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _BAND_ROWS):  # a frame in 32-bit integers would be large
        band = pixels[top : top + _BAND_ROWS].astype(np.int32)
        colour, alpha = band[..., :3], band[..., 3:]
        sums = 2 * (colour * alpha + background * (255 - alpha)) + 255
        mixed[top : top + _BAND_ROWS] = sums // 510
    return mixed


def matrix_of(frame: VideoFrame) -> Colorspace | None:
    """Return the matrix that leads from a frame to RGB; None if the frame is RGB.

    Raises:
        ColourError: it is one that swscale does not have.
    """
    if frame.format.is_rgb or frame.format.has_palette:
        return None
    stated = int(frame.colorspace)
    if stated in _UNSTATED:
        large = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
        return Colorspace.ITU709 if large else Colorspace.ITU601
    if stated not in _MATRICES:
        raise ColourError(f"colour matrix {stated} of ITU-T H.273, which is not converted")
    return _MATRICES[stated]
