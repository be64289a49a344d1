"""Pictures inside a page: PNG data URIs, and thumbnails of what could not be decoded whole."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib

from PIL import Image

from tokenmill_pipelines.report.record import Pixels

#: A thumbnail is not worth more than this: a broken file may claim any size.
MAX_THUMBNAIL_PIXELS = 40_000_000
#: What Pillow's plugins raise on broken bytes; no thumbnail is worth a finished run.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RuntimeError, EOFError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def data_uri(pixels: Pixels, *, longest: int = 512) -> str:
    """Return ``uint8[H, W, 3]`` as a PNG data URI, exactly, or reduced above ``longest`` pixels."""
    image = Image.fromarray(pixels)
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _png_uri(image)


def thumbnail_uri(data: bytes, *, longest: int = 96) -> str:
    """Return what of ``data`` can be decoded as a small PNG data URI, "" if nothing can.

    What was decoded before the data ended or broke is kept without the process-wide switch that
    would also make the decoders of a run accept truncated files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _partial(data)
            if image is None:
                return ""
            image = image.convert("RGB")
            image.thumbnail((longest, longest))
            return _png_uri(image)
        except BROKEN:
            return ""


def _partial(data: bytes) -> Image.Image | None:
    image = Image.open(io.BytesIO(data))
    if image.width * image.height > MAX_THUMBNAIL_PIXELS:
        return None
    try:
        image.load()
    except (OSError, SyntaxError):
        image.tile = []  # nothing more to decode: later steps use the rows that came
        if image.getbbox() is None:
            return None
    return image


def _png_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
