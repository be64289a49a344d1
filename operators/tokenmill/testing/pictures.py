"""Small pictures for tests, made of nothing: noise in any mode, any format's bytes, raw PNGs."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def noise(mode: str = "RGB", size: tuple[int, int] = (23, 17), *, seed: int = 1) -> Image.Image:
    """Return a picture of ``mode`` and ``size`` (w, h) whose every channel is noise."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = size[1], size[0], bands
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    if bands == 1:
        return Image.frombytes(mode, size, values.tobytes())
    return Image.merge(mode, [Image.fromarray(values[..., i]) for i in range(bands)])


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """Return a picture's bytes in Pillow's format ``name``; WebP is lossless unless told."""
    out = io.BytesIO()
    if name == "WEBP":
        options = {"lossless": True} | options
    image.save(out, name, **options)
    return out.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(header: tuple[int, int, int, int], rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG from its header and raw rows, whether they agree or not.

    Args:
        header: width, height, bits per sample and colour type.
        rows: scan lines, each with its filter byte.
        extra: chunks between the header and the data (`png_chunk`).
    """
    body = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)) + b"".join(extra)
    body += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
