"""What `tokenmill feed` says, as JSON documents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from tokenmill.feed import Feed
from tokenmill.feed.estimate import estimate
from tokenmill.feed.values import values_of
from tokenmill.shards.columns import widen_bfloat16
from tokenmill_infra.observe import Observer
from tokenmill_pipelines.cli.feed import Question
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream

#: Batches that are shown, values of each stream's first sample, and shapes that vary.
SHOWN_BATCHES = 3
SHOWN_VALUES = 8
SHOWN_SHAPES = 4
#: What packed windows have beside the ids: their segments, and where those begin.
SEGMENTS = "segment_ids"


def answer(feed: Feed, asked: Question) -> tuple[str, dict[str, Any]]:
    """Return what was asked, and the name of the table that shows it.

    Raises:
        JobError: there is no such step, or no such column.
    """
    if asked.plan:
        return "plan", _plan(feed, asked.classes)
    if asked.step is not None:
        return "step", _step(feed, asked.step)
    steps = feed.steps_of(asked.steps_of, by=asked.by)
    return "steps", {
        "number": feed.snapshot.number,
        "key": asked.steps_of,
        "by": asked.by,
        "epoch_steps": len(feed),
        "steps": steps,
    }


def _plan(feed: Feed, classes: str) -> dict[str, Any]:
    settings = feed.settings
    return {
        "number": feed.snapshot.number,
        "shuffle": settings.shuffle,
        "packed": settings.packing.stream if settings.packing else "",
        "buckets": settings.buckets,
        "classes": classes,
        **estimate(feed, classes=classes or None).to_json(),
    }


def _step(feed: Feed, step: int) -> dict[str, Any]:
    """Return the samples of a step; of the data, reads their keys."""
    total = feed.total_steps
    if feed.source.follow is not None and step >= len(feed):
        when = "ever" if total is not None else "yet"
        raise JobError(f"--step {step}: {len(feed)} steps are committed, there is no more {when}")
    epoch, rows, parts, windows = feed.samples_of(step)
    samples = _samples(feed, rows, parts)
    share = feed.settings.batch_size // feed.place.world_size
    items = np.arange(len(rows)) if windows is None else np.repeat(np.arange(len(windows)), windows)
    for sample, item in zip(samples, items.tolist(), strict=True):
        sample["rank"] = item // share
        if windows is not None:
            sample["window"] = item
    return {
        "number": feed.snapshot.number,
        "step": step,
        "epoch": epoch,
        "world_size": feed.place.world_size,
        "samples": samples,
    }


def _samples(feed: Feed, rows: Any, parts: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{}] * len(rows)
    for i in np.unique(parts).tolist():
        part, mine = feed.parts[i], np.flatnonzero(parts == i)
        keys = values_of(part, rows[mine], ("sample_id", "asset_key")).to_pylist()
        shards, places = part.opened.plan.locate(rows[mine])
        for at, key, shard, row in zip(
            mine.tolist(), keys, shards.tolist(), places.tolist(), strict=True
        ):
            path = part.opened.manifest.path(shard)
            found[at] = {"store": part.name, **key, "shard": path, "row": row}
    return found


def read_batches(
    feed: Feed, batches: int | None, columns: tuple[str, ...] = (), *, observer: Observer
) -> dict[str, Any]:
    """Read some batches, or all; return the first ones' contents and the speed of all.

    Of ``columns`` each batch's first value is shown. The first batch opens files, so it is timed
    apart. Of a followed store every version that is gone on to is told.
    """
    shown: list[dict[str, Any]] = []
    counts: list[int] = []
    first_s, tokens, chapters, start = 0.0, 0, 0, time.perf_counter()
    for batch in islice(feed, batches):
        first_s = first_s or time.perf_counter() - start
        chapters = _tell_chapters(feed, chapters, observer)
        counts.append(len(_ids(batch)))
        tokens += sum(_positions(batch, stream) for stream in feed.streams)
        if len(shown) < SHOWN_BATCHES:
            shown.append(_describe_batch(batch, feed.step - 1, feed.streams, columns))
    seconds = max(1e-9, time.perf_counter() - start)
    later_s = max(1e-9, seconds - first_s)
    later = sum(counts[1:])
    return {
        "number": feed.parts[-1].snapshot.number if feed.source.follow else feed.snapshot.number,
        "batches": len(counts),
        "samples": sum(counts),
        "tokens": tokens,
        "seconds": seconds,
        "first_batch_s": first_s,
        "samples_per_s": later / later_s if later else None,
        "tokens_per_s": tokens * later / sum(counts) / later_s if later else None,
        "shown": shown,
        "state": feed.state_dict(),
    }


def _tell_chapters(feed: Feed, told: int, observer: Observer) -> int:
    """Tell which versions of a followed store came since; returns how many were told."""
    parts = feed.parts if feed.source.follow else ()
    for part in parts[told:]:
        observer.event(
            "follow", snapshot=part.snapshot.number, samples=part.opened.plan.rows, step=feed.step
        )
    return len(parts)


def _ids(batch: Any) -> list[str]:
    """Return the ids of a batch's samples; those of packed windows come a list for each."""
    ids = list(batch["sample_id"])
    return [name for window in ids for name in window] if SEGMENTS in batch else ids


def _positions(batch: Any, stream: Stream) -> int:
    values = batch[stream.name]
    if SEGMENTS in batch and isinstance(values, np.ndarray):
        return int(np.count_nonzero(batch[SEGMENTS]))
    tail = {"index": 1, "bits": stream.width_bits, "float": stream.channels}[stream.kind]
    return _size(values) // tail


def _size(values: Any) -> int:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return int(values.size)
    return sum(_size(each) for each in values)


def _describe_batch(
    batch: Any, step: int, streams: Sequence[Stream], columns: tuple[str, ...]
) -> dict[str, Any]:
    described = {stream.name: _describe_values(batch[stream.name], stream) for stream in streams}
    for name in (SEGMENTS, "position_ids") if SEGMENTS in batch else ():
        described[name] = _described(batch[name])
    first = {name: _plain(batch[name][0]) for name in columns}
    return {"step": step, "sample_ids": _ids(batch), "streams": described, "columns": first}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _describe_values(values: Any, stream: Stream) -> dict[str, Any]:
    """Return the type, shapes and first values of a stream in a batch, as the spec means them."""
    described = _described(values)
    if stream.kind == "float":
        described["dtype"] = stream.dtype
        first = np.asarray(values[0])
        if stream.dtype == "bfloat16" and first.dtype == np.uint16:
            described["first"] = widen_bfloat16(first.ravel()[:SHOWN_VALUES]).tolist()
    return described


def _described(values: Any) -> dict[str, Any]:
    first = np.asarray(values[0])
    if first.dtype == object:  # samples of several shapes in one packed window
        first = np.asarray(first[0])
    described: dict[str, Any] = {
        "dtype": str(first.dtype),
        "shape": [len(values), *(first.shape if isinstance(values, np.ndarray) else ["?"])],
        "first": first.ravel()[:SHOWN_VALUES].tolist(),
    }
    if not isinstance(values, np.ndarray):
        described["shapes"] = [list(np.shape(value)) for value in values[:SHOWN_SHAPES]]
    return described
