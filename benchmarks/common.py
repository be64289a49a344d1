"""What the benchmarks share: pictures, jobs, child processes, measures."""

from __future__ import annotations

import json
import os
import statistics
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenmill_infra.cluster.malloc import MALLOC_ENV

__all__ = [
    "BATCH",
    "MALLOC_ENV",
    "ROOT",
    "TOKENIZERS",
    "Measure",
    "Section",
    "answer",
    "child",
    "job_table",
    "pictures",
    "plain_tokenizer",
    "write_listing",
]

ROOT = Path(__file__).parents[1]
#: Views of one batch, everywhere.
BATCH = 16
#: Pictures above this are left out: the peers' decoders refuse them.
MAX_PIXELS = 50_000_000

#: The tokenizers that are measured. LlamaGen's network in the narrowest form that its group
#: normalisation allows and with one block a level: the less the network costs, the more a
#: pipeline's own cost shows.
TOKENIZERS: dict[str, dict[str, Any]] = {
    "llamagen": {
        "inner": "llamagen",
        "options": {"checkpoint": "random:0", "config": {"ch": 32, "num_res_blocks": 1}},
    },
    "patch_vq": {"inner": "patch_vq", "options": {}},
}

#: One thread for each network; no telemetry; nothing of Ray in the user's home.
CHILD_ENV = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, measured ``len(samples)`` times; ``bar`` is what it should reach.

    ``below`` says that the bar is an upper one.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    bar: float | None = None
    below: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the bar; None without a bar."""
        if self.bar is None:
            return None
        return self.median <= self.bar if self.below else self.median >= self.bar


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's part of the results page."""

    title: str
    method: str
    measures: tuple[Measure, ...]
    notes: tuple[str, ...] = field(default=())


def pictures(corpus: Path, count: int) -> list[str]:
    """Return the paths of ``count`` PNG files of a fetched corpus: every n-th by key.

    Names that stand for another's file and pictures above `MAX_PIXELS` are left out.
    """
    lines = (corpus / "listing.jsonl").read_text(encoding="utf-8").splitlines()
    keys = sorted(row["uri"] for row in map(json.loads, lines) if not row.get("same_as"))
    fit = [key for key in keys if png_pixels(corpus / key) <= MAX_PIXELS]
    if len(fit) < count:
        raise RuntimeError(f"{corpus} has {len(fit)} pictures, {count} were asked for")
    return [str(corpus / key) for key in fit[:: len(fit) // count][:count]]


def png_pixels(path: Path) -> int:
    """Return the pixels that a PNG file claims."""
    with path.open("rb") as stream:
        head = stream.read(24)
    width, height = struct.unpack(">II", head[16:24])
    return int(width * height)


def write_listing(paths: list[str], file: Path) -> None:
    """Write a JSON-lines listing of files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"uri": path}) + "\n" for path in paths), encoding="utf-8")


def job_table(
    listing: Path, store: Path, tokenizer: Mapping[str, Any], **sections: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a job; ``sections`` (shards, cluster, limits, ...) are laid over it."""
    table: dict[str, Any] = {
        "name": "benchmark",
        "source": {"kind": "jsonl", "urls": [str(listing)]},
        "tokenizer": dict(tokenizer),
        "store": {"uri": str(store)},
        "limits": {"batch_size": BATCH},
    }
    return table | {name: {**table.get(name, {}), **value} for name, value in sections.items()}


def plain_tokenizer(name: str) -> dict[str, Any]:
    """Return the ``[tokenizer]`` section of one of `TOKENIZERS`."""
    chosen = TOKENIZERS[name]
    return {"kind": chosen["inner"], **chosen["options"]}


#: What a child process is called with, instead of a person's options.
CHILD = "--child"


def child(module: str, task: Mapping[str, Any], *, env: Mapping[str, str] | None = None) -> Any:
    """Run ``benchmarks.module`` on a task in a fresh process; return what it answers.

    Raises:
        RuntimeError: it failed; says its last words.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", CHILD]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = {**os.environ, **CHILD_ENV, "PYTHONPATH": os.pathsep.join(paths), **(env or {})}
    options: dict[str, Any] = {"cwd": ROOT, "env": given, "capture_output": True, "text": True}
    # Through standard input: two thousand paths are too long for a command line.
    done = subprocess.run(command, input=json.dumps(task), check=False, **options)
    if done.returncode:
        raise RuntimeError(f"benchmarks.{module} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def task_given() -> Any:
    """Return the task that a child was given."""
    return json.loads(sys.stdin.read())


def answer(value: Mapping[str, Any]) -> None:
    """Tell the parent; the last line that a child prints."""
    print(json.dumps(value), flush=True)
