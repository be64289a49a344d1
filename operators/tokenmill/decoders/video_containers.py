"""Video containers by their bytes: which one it is, and with which demuxer of FFmpeg it is read.

Names are untrusted, and so is guessing: FFmpeg knows hundreds of formats, among them playlists
and lists of pictures that make it open other files. Here a file is read by the one demuxer that
its signature names, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

#: So many bytes from the start are enough for every signature here.
HEAD_BYTES = 4096

#: Sizes of a transport stream's packets: plain, with a time code in front (Blu-ray), with a
#: Reed-Solomon tail.
_TS_STRIDES = (188, 192, 204)
_TS_SYNC = 0x47
_TS_PACKETS = 4

_ISO_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx"}
)
_ISO_NAMES = {b"qt": "mov", b"3g2": "3g2", b"3gp": "3gp", b"3ge": "3gp", b"M4V": "m4v"}
_SIGNATURES = (
    (b"\x1a\x45\xdf\xa3", "matroska", "matroska"),
    (b"\0\0\1\xba", "mpeg", "mpeg"),
    (b"\0\0\1\xb3", "mpegvideo", "mpegvideo"),
    (b"OggS", "ogg", "ogg"),
    (b"FLV\x01", "flv", "flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "asf", "asf"),
    (b".RMF", "rm", "rm"),
    (b"FWS", "swf", "swf"),
    (b"CWS", "swf", "swf"),
    (b"ZWS", "swf with LZMA", ""),
    (b"GIF87a", "gif", "gif"),
    (b"GIF89a", "gif", "gif"),
    (b"YUV4MPEG2 ", "y4m", "yuv4mpegpipe"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01", "mxf", "mxf"),
    (b"\xff\xd8\xff", "mjpeg", "mjpeg"),
)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was recognised.

    Attributes:
        name: what is stored as ``asset.format``.
        demuxer: FFmpeg's demuxer for it; "" = none reads it.
        stride: bytes of a transport stream's packet, 0 for all others.
        offset: where its first packet begins.
    """

    name: str
    demuxer: str
    stride: int = 0
    offset: int = 0

    @property
    def claims_duration(self) -> bool:
        """Whether the container states a duration; of others FFmpeg gives a guess."""
        return self.demuxer not in ("mpeg", "mpegvideo", "mpegts", "mjpeg", "swf", "gif")


def sniff(head: bytes) -> Container | None:
    """Return the container whose first `HEAD_BYTES` are ``head``, or None."""
    for signature, name, demuxer in _SIGNATURES:
        if head.startswith(signature):
            webm = name == "matroska" and b"webm" in head[:64]
            return Container("webm" if webm else name, demuxer)
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return Container("avi", "avi")
    if head[4:8] in _ISO_BOXES:
        return Container(_iso_name(head), "mov")
    return _transport_stream(head)


def _iso_name(head: bytes) -> str:
    if head[4:8] != b"ftyp":
        return "mov"  # older than brands
    brand = head[8:12]
    return next((name for start, name in _ISO_NAMES.items() if brand.startswith(start)), "mp4")


def _transport_stream(head: bytes) -> Container | None:
    for stride in _TS_STRIDES:
        need = (_TS_PACKETS - 1) * stride + 1
        for offset in range(min(stride, len(head) - need + 1)):
            if all(head[offset + i * stride] == _TS_SYNC for i in range(_TS_PACKETS)):
                return Container("mpegts", "mpegts", stride, offset)
    return None
