"""Picture containers by their bytes: which one it is, how big it claims to be, whether it is whole.

Nothing here decodes. Names are untrusted (``photo.jpg`` may be anything), so a format is known by
its signature alone; a file that cannot be decoded is called truncated only when its own structure
says that bytes are missing.

Layouts: JPEG ITU-T T.81, PNG W3C/ISO 15948, GIF89a, WebP RFC 9649, TIFF 6.0, ISO base media files
ISO 14496-12 (AVIF, HEIF, JPEG XL and JPEG 2000 part 1 share its boxes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\0\0\1\0", "icon"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"<svg", "SVG"),
)
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def sniff(data: bytes) -> str | None:
    """Return the container's name as Pillow spells it (``JPEG``, ``JPEG2000``, ...), or None.

    Names of pictures that no decoder here reads (``HEIF``, ``JPEG XL``, ...) are returned too.
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and len(data) >= 18 and _u32le(data, 14) in _BMP_HEADER_BYTES:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    return None


def _iso_media(data: bytes) -> str | None:
    stop = min(struct.unpack_from(">I", data)[0], 256)
    brands = {data[8:12]} | {data[i : i + 4] for i in range(16, stop, 4)}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height that a WebP file claims, without making a decoder.

    libwebp allocates the canvas when its decoder is made, so the claim is read beforehand.
    """
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return _u24le(body, 4) + 1, _u24le(body, 7) + 1
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = _u32le(body, 1)
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def png_bit_depth(data: bytes) -> int:
    """Return bits per sample of a PNG (the ninth byte of IHDR, which comes first)."""
    return data[24]


def ends_early(name: str, data: bytes) -> bool:
    """Whether the structure of a ``name`` file says that bytes are missing at its end."""
    try:
        return _ENDS_EARLY[name](data)
    except (struct.error, IndexError):
        return True  # the structure itself breaks off


def _jpeg(data: bytes) -> bool:
    at = 2
    while data[at + 1] != 0xDA:  # up to the first start of scan
        fill = data[at] != 0xFF or data[at + 1] == 0xFF
        at += 1 if fill else 2 + struct.unpack_from(">H", data, at + 2)[0]
    # Inside a scan 0xFF is always followed by 0 or a restart marker: this can only be the end.
    return data.rfind(b"\xff\xd9") < at


def _png(data: bytes) -> bool:
    at = 8
    while data[at + 4 : at + 8] != b"IEND":
        at += 12 + int(struct.unpack_from(">I", data, at)[0])
    return at + 12 > len(data)


def _gif(data: bytes) -> bool:
    return not data.rstrip(b"\0").endswith(b";")


def _bmp(data: bytes) -> bool:
    return _u32le(data, 2) > len(data)


def _riff(data: bytes) -> bool:
    return _u32le(data, 4) + 8 > len(data)


def _boxes(data: bytes) -> bool:
    if data.startswith(b"\xff\x4f"):
        return _codestream(data)
    at = 0
    while at < len(data):
        size = int(struct.unpack_from(">I", data, at)[0])
        if size == 1:
            size = int(struct.unpack_from(">Q", data, at + 8)[0])
        if size == 0:  # to the end of the file
            return data[at + 4 : at + 8] == b"jp2c" and _codestream(data)
        at += max(size, 8)
    return at > len(data)


def _codestream(data: bytes) -> bool:
    # JPEG 2000 data never holds 0xFF90 or above, so the end marker follows the last tile's start.
    return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\x90")


def _tiff(data: bytes) -> bool:
    if data[2:4] not in (b"*\0", b"\0*"):
        return False  # BigTIFF: not looked into
    order = "<" if data[:2] == b"II" else ">"
    tags = {tag: (kind, count, at) for tag, kind, count, at in _tiff_entries(data, order)}
    for offsets, counts in ((273, 279), (324, 325)):
        if offsets in tags and counts in tags:
            starts, sizes = (_tiff_values(data, order, tags[tag]) for tag in (offsets, counts))
            return any(a + b > len(data) for a, b in zip(starts, sizes, strict=False))
    return False


def _tiff_entries(data: bytes, order: str) -> Iterator[tuple[int, int, int, int]]:
    directory = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, directory)[0]
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, at)
        yield tag, kind, values, at + 8


def _tiff_values(data: bytes, order: str, entry: tuple[int, int, int]) -> tuple[int, ...]:
    kind, count, at = entry
    code, width = ("H", 2) if kind == 3 else ("I", 4)
    if count * width > 4:
        at = struct.unpack_from(f"{order}I", data, at)[0]
    return struct.unpack_from(f"{order}{count}{code}", data, at)


def _u32le(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _u24le(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


_ENDS_EARLY = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "BMP": _bmp,
    "WEBP": _riff,
    "AVIF": _boxes,
    "JPEG2000": _boxes,
    "TIFF": _tiff,
}
