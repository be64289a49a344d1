"""What a video container claims to hold beyond the bytes that came.

FFmpeg reads what is there and calls the rest the end. Whether a file was cut short is told by its
own structure: sizes that reach behind the end of the file, an index that is missing, a last page
that is not marked as the last. A format that claims nothing (a program stream cut between two
packets) cannot be told from a whole one here; its last frame may still give it away.

Layouts: ISO 14496-12 (MP4), RFC 8794 and 9559 (Matroska), RFC 3533 (Ogg), ISO 13818-1 (MPEG),
Microsoft's RIFF/AVI and ASF, Adobe's FLV and SWF, SMPTE 377-1 (MXF), GIF89a, YUV4MPEG2.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

from tokenmill.decoders.video_containers import Container

Read = Callable[[int, int], bytes]

_TAIL_BYTES = 256 * 1024
#: A hostile file could be nothing but tiny elements; so many are walked over.
_MAX_STEPS = 2**20
_SWF_PIECE_BYTES = 2**18
_SLACK_S = 2.0
#: FFmpeg's writer of RealMedia counts a part of the data chunk's header twice.
_REAL_SLACK_BYTES = 18

_MEDIA_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"styp", b"moof", b"sidx", b"mfra", b"imda"})
_OTHER_BOXES = frozenset({b"free", b"skip", b"wide", b"udta", b"meta", b"uuid", b"pnot", b"emsg"})
_REAL_CHUNKS = frozenset({b".RMF", b"PROP", b"CONT", b"MDPR", b"DATA", b"INDX"})
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_SUBSAMPLING = {b"420": (2, 2), b"411": (4, 1), b"422": (2, 1), b"444": (1, 1)}
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def missing(container: Container, stream: BinaryIO, size: int) -> str:
    """Return what the structure of a file of ``size`` bytes says is missing; "" if nothing."""

    def read(at: int, count: int) -> bytes:
        if at < 0:
            return b""
        stream.seek(at)
        return stream.read(count)

    if container.stride:
        left = (size - container.offset) % container.stride
        return f"the last packet has {left} of {container.stride} bytes" if left else ""
    check = _CHECKS.get(container.demuxer)
    try:
        return check(read, size) if check else ""
    except (struct.error, IndexError):
        return "a header breaks off at the end of the file"


def _beyond(what: str, end: int, size: int) -> str:
    return f"{what} claims to end at byte {end}; the file ends at {size}" if end > size else ""


def _iso(read: Read, size: int) -> str:
    at, kinds = 0, set[bytes]()
    for _ in range(_MAX_STEPS):
        if at >= size:
            break
        header = read(at, 16)
        if len(header) < 8:
            if b"moof" in kinds:
                return "a fragment's header breaks off"
            break
        length, kind = struct.unpack(">I4s", header[:8])
        if kind not in _MEDIA_BOXES | _OTHER_BOXES:
            break  # padding or junk behind the end
        if length < 2:
            length = struct.unpack(">Q", header[8:])[0] if length else size - at
        if at + length > size and kind in _MEDIA_BOXES:
            return _beyond(f"the box {kind.decode()!r}", at + length, size)
        kinds.add(kind)
        at += max(length, 8)
    if b"moov" not in kinds:
        return "it has no box 'moov', the index of its samples"
    return "" if kinds & {b"mdat", b"moof", b"imda"} else "it has no box 'mdat', its samples"


def _matroska(read: Read, size: int) -> str:
    at = 0
    for _ in range(_MAX_STEPS):
        if at >= size:
            break
        header = read(at, 12)
        if header[0] == 0:
            break  # no element begins so: padding or junk behind the end
        name, used = _vint(header, keep_marker=True)
        length, width = _vint(header[used:])
        start = at + used + width
        if length < 0:  # not said, as in live streams: look inside
            if name not in (_SEGMENT, _CLUSTER):
                break
            at = start
        elif start + length > size or name == _SEGMENT:
            return _beyond(f"the element {name:X}", start + length, size)
        else:
            at = start + length
    return ""


def _vint(data: bytes, *, keep_marker: bool = False) -> tuple[int, int]:
    """Return an EBML number and its width in bytes; -1 for the size that says unknown."""
    width = 9 - data[0].bit_length()
    if width > 8 or len(data) < width:
        raise IndexError("an EBML number breaks off")
    value = int.from_bytes(data[:width], "big")
    if keep_marker:
        return value, width
    value &= (1 << 7 * width) - 1
    return (-1 if value == (1 << 7 * width) - 1 else value), width


def _riff(read: Read, size: int) -> str:
    at = 0
    for _ in range(_MAX_STEPS):
        kind, length = struct.unpack("<4sI", read(at, 8)) if at + 8 <= size else (b"", 0)
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):  # the end, or a size never written
            break
        end = at + 8 + length
        if end > size + 8:  # some writers count the header in
            return _beyond("a RIFF chunk", end, size)
        at = end + (length & 1)
    return ""


def _program_stream(read: Read, size: int) -> str:
    data = read(max(0, size - _TAIL_BYTES), _TAIL_BYTES)
    at = data.find(b"\0\0\1\xba")
    while at >= 0:
        end = _end_of_packs(data, at)
        if end is not None:
            return _beyond("the last packet", end - len(data) + size, size)
        at = data.find(b"\0\0\1\xba", at + 4)
    return ""


def _end_of_packs(data: bytes, at: int) -> int | None:
    """Return where the chain of packs from ``at`` ends; None if it leads to something else."""
    while at < len(data):
        if not any(data[at:]):
            return len(data)  # padding
        if len(data) - at < 14 and b"\0\0\1".startswith(data[at : at + 3]):
            return at + 14
        if data[at : at + 3] != b"\0\0\1":
            return None
        code = data[at + 3]
        if code == 0xBA:
            at += 12 if data[at + 4] >> 4 == 2 else 14 + (data[at + 13] & 7)
        elif code == 0xB9:
            at += 4
        elif code > 0xBA:
            at += 6 + int(struct.unpack_from(">H", data, at + 4)[0])
        else:
            return None
    return at


def _ogg(read: Read, size: int) -> str:
    data = read(max(0, size - _TAIL_BYTES), _TAIL_BYTES)
    at = data.rfind(b"OggS\0")
    if at < 0 or len(data) < at + 27:
        return "the last page breaks off"
    count = data[at + 26]
    lacing = data[at + 27 : at + 27 + count]
    end = at + 27 + count + sum(lacing)
    if len(lacing) < count or end > len(data):
        return "the last page breaks off"
    return "" if data[at + 5] & 4 else "its last page is not marked as the end of a stream"


def _flash(read: Read, size: int) -> str:
    head = read(0, 4096)
    claimed = _flash_number(head, b"filesize")
    if claimed > size:
        return f"it claims {claimed:.0f} bytes and has {size}"
    last = struct.unpack(">I", read(size - 4, 4))[0]
    tag = read(size - 4 - last, 8) if 11 <= last <= size - 13 else b""
    if len(tag) < 8 or int.from_bytes(tag[1:4], "big") + 11 != last:
        return "the last tag breaks off"
    at_s = (tag[7] << 24 | int.from_bytes(tag[4:7], "big")) / 1000
    claimed = _flash_number(head, b"duration")
    late = claimed > at_s + max(_SLACK_S, claimed / 20)
    return f"it claims {claimed} s and ends at {at_s} s" if late else ""


def _flash_number(head: bytes, name: bytes) -> float:
    at = head.find(name + b"\0")  # an AMF0 property: name, type 0, a double
    value = head[at + len(name) + 1 : at + len(name) + 9]
    return float(struct.unpack(">d", value)[0]) if at >= 0 and len(value) == 8 else 0.0


def _asf(read: Read, size: int) -> str:
    head = read(0, 2**16)
    at = head.find(_ASF_PROPERTIES)
    if at < 0:
        return "" if len(head) > 30 else "its header breaks off"
    claimed = int(struct.unpack_from("<Q", head, at + 40)[0])
    live = struct.unpack_from("<I", head, at + 88)[0] & 1
    return "" if live else _beyond("the file", claimed, size)


def _real(read: Read, size: int) -> str:
    at = 0
    for _ in range(_MAX_STEPS):
        if at >= size:
            break
        kind, length = struct.unpack(">4sI", read(at, 8))
        if kind not in _REAL_CHUNKS or length < 8:
            break
        if at + length > size + _REAL_SLACK_BYTES:
            return _beyond(f"the chunk {kind.decode()!r}", at + length, size)
        at += length
    return ""


def _shockwave(read: Read, size: int) -> str:
    kind, claimed = struct.unpack("<3sxI", read(0, 8))
    if kind == b"FWS":
        return _beyond("the file", claimed, size)
    packed, at, have = zlib.decompressobj(), 8, 8
    try:
        while have < claimed and not packed.eof and at < size:
            data = packed.unconsumed_tail or read(at, _SWF_PIECE_BYTES)
            at += 0 if packed.unconsumed_tail else len(data)
            have += len(packed.decompress(data, _SWF_PIECE_BYTES))
    except zlib.error:
        return ""  # damaged rather than cut
    return _beyond("the unpacked file", claimed, have) if not packed.eof else ""


def _gif(read: Read, size: int) -> str:
    tail = read(max(0, size - 64), 64).rstrip(b"\0")
    # The last block ends with an empty sub-block, then comes the trailer.
    return "" if tail.endswith(b"\0;") else "its trailer is missing"


def _motion_jpeg(read: Read, size: int) -> str:
    data = read(max(0, size - _TAIL_BYTES), _TAIL_BYTES)
    whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xd8")
    return "" if whole else "the last picture has no end"


def _raw(read: Read, size: int) -> str:
    line = read(0, 256).partition(b"\n")[0]
    words = {word[:1]: word[1:] for word in line.split()[1:]}
    frame = _raw_frame_bytes(words)
    at = len(line) + 1
    for _ in range(_MAX_STEPS):
        if not frame or at >= size:
            break
        start = at + len(read(at, 256).partition(b"\n")[0]) + 1
        at = start + frame
    return _beyond("a frame", at, size) if frame else ""


def _raw_frame_bytes(words: dict[bytes, bytes]) -> int:
    """Return the bytes of a YUV4MPEG2 frame; 0 for a layout that is not known."""
    try:
        width, height = int(words[b"W"]), int(words[b"H"])
    except (KeyError, ValueError):
        return 0
    name = words.get(b"C", b"420")
    wide = 2 if re.search(rb"p1\d|mono1\d", name) else 1
    luma = width * height
    if name.startswith(b"mono"):
        return luma * wide
    across, down = _SUBSAMPLING.get(name[:3], (0, 0))
    if not across:
        return 0
    chroma = -(-width // across) * -(-height // down)
    return (luma * (2 if name.endswith(b"alpha") else 1) + 2 * chroma) * wide


def _material(read: Read, size: int) -> str:
    head = read(0, 64)
    width = head[16] & 0x7F if head[16] & 0x80 else 0
    footer = int(struct.unpack_from(">Q", head, 17 + width + 24)[0])
    return "" if footer < size else f"its footer is said to be at byte {footer} of {size}"


_CHECKS: dict[str, Callable[[Read, int], str]] = {
    "mov": _iso,
    "matroska": _matroska,
    "avi": _riff,
    "mpeg": _program_stream,
    "ogg": _ogg,
    "flv": _flash,
    "asf": _asf,
    "rm": _real,
    "swf": _shockwave,
    "gif": _gif,
    "mjpeg": _motion_jpeg,
    "mxf": _material,
    "yuv4mpegpipe": _raw,
}
