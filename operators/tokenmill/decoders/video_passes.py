"""One pass over a video stream: packets to frames, and damage that is told.

What FFmpeg's own loop would hide is made explicit here:

- packets without a byte (Theora's and VP8's "show the last picture again") give no frame, and are
  kept from the decoder, which would take them for the end;
- what cannot be decoded before the first key frame, or is shown before it (a broadcast that starts
  between two key frames), is left out, as players do;
- a packet that fails later, or a frame that the decoder had to patch, is damage: of the last
  packet it is called ``truncated``, of any other ``corrupt``. Arithmetic coders (HEVC, VP8, VP9,
  AV1, and much of H.264) decode damaged bytes to other pixels without a word: that is not seen;
- a stream that ends well before the duration that the container states for it is ``corrupt``: the
  demuxer lost its way;
- that FFmpeg finds no memory is no damage, however early: `MemoryError` passes, for whoever set
  the limit to judge. But FFmpeg also says so of sizes that no memory would do for, which damaged
  bytes state: where many times what a file of its size can need is to be had, it is `ClaimError`,
  whatever is done with damage, for nobody knows what came behind it.

A pass uses one thread: what a damaged stream gives depends on how it is spread over threads.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import BinaryIO

import av
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tokenmill.decoders.video_containers import Container
from tokenmill.decoders.video_source import Source, refuse_claim, require_frame
from tokenmill_schemas.errors import AssetError, Reason

_BUFFER_BYTES = 2**18
#: How much FFmpeg may read ahead to learn what the streams are (its own defaults, held fast), and
#: that it may open nothing else.
_OPEN = {"probesize": "5000000", "analyzeduration": "5000000", "protocol_whitelist": "none"}
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
#: The native decoders of VP8 and VP9 leave alpha out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
#: Makes decoders of the H.263 family look at what they read; the others do anyway.
_WATCHFUL = "bitstream+buffer"
#: Containers whose streams' own durations can be believed; an MP4's edit list shows a part only.
_TIMED = frozenset({"matroska", "ogg", "asf", "rm", "avi"})
_SLACK_S, _SLACK_SHARE = 2.0, 0.05
_DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class Pass:
    """An open container, one of its video streams, and that stream's decoder."""

    def __init__(
        self, container: Container, stream: BinaryIO, *, max_pixels: int, strict: bool
    ) -> None:
        """Open the container.

        Raises:
            AssetError: ``corrupt``, ``no_video``, ``unsupported`` or ``unreadable``.
            MemoryError: FFmpeg found none.
        """
        self.source = Source(stream)
        self.source.seek(0)
        self._strict, self._max_pixels = strict, max_pixels
        self._count = self._number = 0
        self._last_dts: int | None = None
        self._start: int | None = None
        self._early = ""
        self._early_reason = Reason.CORRUPT
        self._end = 0
        self._is_timed = strict and container.demuxer in _TIMED
        self.container = _opened(container, self.source, max_pixels)
        try:
            self.stream = _video_stream(self.container)
            self._decoder = _decoder(self.stream, max_pixels, strict=strict)
        except (AssetError, MemoryError):
            self.container.close()
            raise

    def close(self) -> None:
        """Free the container and its decoder."""
        self.container.close()

    def frames(self) -> Iterator[VideoFrame]:
        """Yield what is decoded, in order of presentation.

        Raises:
            AssetError: ``truncated``, ``corrupt``, ``no_video`` (not one frame), ``unreadable``.
            MemoryError: FFmpeg found none.
        """
        with closing(_with_last(self._packets())) as packets:
            for packet, is_last in packets:
                self.source.check()
                yield from self._decoded(packet, is_last=is_last)
        yield from self._decoded(None, is_last=True)
        if not self._count:
            if self._early:
                raise AssetError(self._early_reason, f"no frame: {self._early}")
            raise AssetError(Reason.NO_VIDEO, "its video stream holds no frame")
        self._check_end()

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        failed = ""
        try:
            for packet in self.container.demux(self.stream):
                if packet.pts is not None:
                    self._end = max(self._end, packet.pts + (packet.duration or 0))
                if packet.size:
                    self._number += 1
                    yield packet
        except MemoryError as error:
            refuse_claim(error, self.source, _pixels(self.stream))
            raise
        except FFmpegError as error:
            failed = error.strerror or type(error).__name__
        self.source.check()
        if failed:
            text = f"reading ends after packet {self._number}: {failed}"
            self._damage(Reason.CORRUPT, text, self._end)

    def _decoded(
        self, packet: Packet[VideoStream] | None, *, is_last: bool
    ) -> Iterator[VideoFrame]:
        where = "the last packet" if is_last else f"packet {self._count} or so"
        reason = Reason.TRUNCATED if is_last else Reason.CORRUPT
        if packet is not None:
            self._last_dts = packet.dts
            if packet.is_corrupt and is_last:
                self._damage(reason, "the last packet breaks off", packet.pts)
        try:
            frames = self._decoder.decode(packet)
        except EOFError:
            return
        except MemoryError as error:
            refuse_claim(error, self.source, _pixels(self.stream))
            raise
        except FFmpegError as error:
            require_frame(_pixels(self.stream))
            if isinstance(error, ArgumentError) and not (self._count or _pixels(self.stream)):
                # What FFmpeg says of a size beyond the bound that it was given (`_bounded`).
                text = f"its frame size is refused; the limit is {self._max_pixels} pixels"
                raise AssetError(Reason.TOO_MANY_PIXELS, text) from error
            # Decoders that know no better return a bare -1, which reads as EPERM.
            said = "no reason" if isinstance(error, PermissionError) else error.strerror
            text = f"{where} is not decoded (FFmpeg: {said})"
            self._damage(reason, text, packet.pts if packet else None)
            return
        if self._start is None and packet is not None and packet.is_keyframe:
            self._start = packet.pts
        for frame in frames:
            if frame.is_corrupt:
                held_back = packet is None and frame is frames[-1]
                last = is_last and (held_back or frame.dts == self._last_dts)
                text = f"frame {self._count} is damaged"
                self._damage(Reason.TRUNCATED if last else Reason.CORRUPT, text, frame.pts)
            self._count += 1
            yield frame

    def _check_end(self) -> None:
        claimed = _claimed_s(self.stream) if self._is_timed else None
        if claimed is None or self.stream.time_base is None:
            return
        end = float(self._end * self.stream.time_base)
        if end < claimed - max(_SLACK_S, _SLACK_SHARE * claimed):
            text = f"its video ends at {end:.2f} s; the container states {claimed:.2f} s"
            raise AssetError(Reason.CORRUPT, text)

    def _damage(self, reason: Reason, text: str, pts: int | None) -> None:
        # Decoders hold frames back: that none has come yet does not mean that none is on its way.
        leads = self._start is None or pts is None or pts < self._start
        if not self._count and leads:
            if not self._early:
                self._early, self._early_reason = text, reason
        elif self._strict:
            raise AssetError(reason, text)


def _with_last(
    packets: Iterator[Packet[VideoStream]],
) -> Generator[tuple[Packet[VideoStream], bool]]:
    """Yield each packet and whether it is the last."""
    held = next(packets, None)
    for packet in packets:
        if held is not None:
            yield held, False
        held = packet
    if held is not None:
        yield held, True


def _opened(container: Container, source: Source, max_pixels: int) -> InputContainer:
    try:
        opened = av.open(
            source,
            "r",
            format=container.demuxer,
            options={**_OPEN, **_bounded(max_pixels), "threads": "1"},
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
        )
    except MemoryError as error:
        refuse_claim(error, source, 0)
        raise
    except FFmpegError as error:
        source.check()
        raise AssetError(Reason.CORRUPT, f"{container.name}: {error.strerror}") from error
    source.check()
    return opened


def _is_encrypted(context: VideoCodecContext) -> bool:
    try:
        return context.codec_tag == "encv"
    except UnicodeDecodeError:  # PyAV takes a tag for text; a damaged one is any four bytes
        return False


def _kind(stream: Stream) -> str:
    return "a cover picture" if stream.type == "video" else stream.type


def _bounded(max_pixels: int) -> dict[str, str]:
    """Return the option that keeps a decoder from allocating more; frames are coded padded."""
    return {"max_pixels": str(min(2 * max_pixels + 2**16, 2**31 - 1))}


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the default, else the largest, else the first stream that is no cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & _PICTURES]
    if not streams:
        kinds = ", ".join(sorted({_kind(s) for s in container.streams})) or "nothing"
        raise AssetError(Reason.NO_VIDEO, f"no video stream, only {kinds}")
    return max(streams, key=lambda s: (_is_default(s), _pixels(s), -s.index))


def _claimed_s(stream: VideoStream) -> float | None:
    """Return when the container says that the stream ends, in seconds."""
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    tag = _DURATION_TAG.fullmatch(
        stream.metadata.get("DURATION", "")
    )  # what Matroska's writers add
    if tag is None:
        return None
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])


def _is_default(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.default)


def _pixels(stream: VideoStream) -> int:
    context = stream.codec_context
    return context.width * context.height if context is not None else 0


def _decoder(stream: VideoStream, max_pixels: int, *, strict: bool) -> VideoCodecContext:
    context = stream.codec_context
    if context is None:
        raise AssetError(Reason.UNSUPPORTED, "a video codec that FFmpeg does not decode here")
    if _is_encrypted(context):
        raise AssetError(Reason.UNSUPPORTED, "encrypted video")
    if _pixels(stream) > max_pixels:
        claim = f"{context.width}x{context.height} = {_pixels(stream)} pixels"
        raise AssetError(Reason.TOO_MANY_PIXELS, f"claims {claim}; the limit is {max_pixels}")
    name = context.name
    if stream.metadata.get("alpha_mode") == "1" and name in _ALPHA_DECODERS:
        see_through = CodecContext.create(_ALPHA_DECODERS[name], "r")
        if isinstance(see_through, VideoCodecContext):
            see_through.extradata = context.extradata
            context = see_through
    context.thread_count = 1
    context.options = _bounded(max_pixels)
    if strict:
        context.options["err_detect"] = _WATCHFUL
    return context
