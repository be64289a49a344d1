"""For tests of feeds: stores of random tokens, and the law that every feed must keep."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed import Batch, Feed
from tokenmill.shards import read_format
from tokenmill.shards.columns import make_batch, stored_shapes
from tokenmill.store import Commit, Identity, Store
from tokenmill.store.paths import shard_file
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.shapes import encode_shapes
from tokenmill_schemas.snapshot import Receipt
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

#: Sixteen ids of a codebook of 1,000, and no companion columns.
SMALL_LAYOUT = ShardLayout(TokenSpec((Stream("image", "index", (Axis("n", 16),), (1000,)),)))


def build_store(
    folder: Path,
    samples: Sequence[int],
    *,
    layout: ShardLayout = SMALL_LAYOUT,
    shards: ShardsConfig | None = None,
    values: Mapping[str, Sequence[Any]] | None = None,
) -> Store:
    """Write a store of random tokens: one shard for each entry of ``samples``; returns it.

    Sample i has the id ``s<i>``, and of a companion column the i-th of its ``values``; without
    those, companion text is ``<column> <i>`` and companion numbers are i. Called again with the
    same folder, it appends a snapshot of the same shards under new names.
    """
    store = Store.of(str(folder))
    shards = shards or ShardsConfig()
    identity = Identity(layout.spec, {"made_by": "tokenmill.testing"}, layout, shards.format)
    held = len(store.log.numbers())
    receipts = []
    for index, count in enumerate(samples):
        rows = range(sum(samples[:index]), sum(samples[:index]) + count)
        unit = hashlib.sha256(f"{held}/{index}".encode()).hexdigest()[:32]
        batch = _batch(layout, rows, values or {}, seed=index)
        receipts.append(_put(store, unit, batch, layout=layout, shards=shards))
    store.commit(Commit(tuple(receipts), (), identity))
    return store


def assert_restores_at_every_step(make_feed: Callable[[], Feed], *, steps: int) -> None:
    """Check that stopping a feed after any step and restoring it elsewhere changes no batch.

    Every feed is restored into a new one, through JSON, from the state of a feed that was itself
    restored; iterators are left early, as training loops do.

    Raises:
        AssertionError: a batch differs from that of a feed that never stopped.
    """
    wanted = list(islice(make_feed(), steps))
    state = make_feed().state_dict()
    for step in range(len(wanted)):
        feed = make_feed()
        feed.load_state_dict(json.loads(json.dumps(state)))
        if feed.step != step:
            raise AssertionError(f"restored at step {feed.step}, the state was of step {step}")
        for ahead, (batch, want) in enumerate(zip(feed, wanted[step : step + 3], strict=False)):
            if not same_batch(batch, want):
                raise AssertionError(f"restored at step {step}: step {step + ahead} differs")
            if ahead == 0:
                state = feed.state_dict()


def same_batch(one: Batch, other: Batch) -> bool:
    """Whether two batches have the same names, types, shapes and values."""
    if list(one) != list(other):
        return False
    return all(_same(one[name], other[name]) for name in one)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype != object:
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | np.ndarray) and isinstance(other, list | np.ndarray):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _put(
    store: Store, unit: str, batch: pa.RecordBatch, *, layout: ShardLayout, shards: ShardsConfig
) -> Receipt:
    rows = batch.num_rows
    facts: dict[str, Any] = {"unit_id": unit, "plan": "", "row_group": 0, "tokens": 0}
    facts |= {"samples": rows, "assets": rows, "batch_rows": shards.batch_rows}
    if not rows:
        return Receipt(**facts, format=shards.format, path="", bytes=0, sha256="")
    kind = read_format(shards.format)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, f"shard.{kind.suffix}")
        writer = kind.writer(local, layout, batch_rows=shards.batch_rows)
        writer.write(batch)
        writer.close()
        data = local.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        path = shard_file(unit, sha256, kind.suffix)
        store.storage.create_from(path, local)
    facts |= {"shapes": _shapes(batch, layout), "format": shards.format}
    return Receipt(**facts, path=path, bytes=len(data), sha256=sha256)


def _shapes(batch: pa.RecordBatch, layout: ShardLayout) -> str:
    shapes = encode_shapes(layout.spec, stored_shapes(layout.spec, batch))
    return base64.b64encode(shapes).decode()


def _batch(
    layout: ShardLayout, rows: range, values: Mapping[str, Sequence[Any]], *, seed: int
) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    tokens = {s.name: _tokens(s, len(rows), rng) for s in layout.spec.streams}
    others: dict[str, Any] = {
        "sample_id": [f"s{i}" for i in rows],
        "asset_key": [f"a{i}" for i in rows],
    }
    for field in layout.extras:
        text = pa.types.is_string(field.type)
        made = [f"{field.name} {i}" for i in rows] if text else list(rows)
        given = values.get(field.name)
        others[field.name] = made if given is None else [given[i] for i in rows]
    return make_batch(layout, tokens, others)


def _tokens(
    stream: Stream, rows: int, rng: np.random.Generator
) -> npt.NDArray[Any] | list[npt.NDArray[Any]]:
    if stream.is_fixed:
        return _values(stream, (rows, *(size or 0 for size in stream.shape)), rng)
    shapes = ([size or int(rng.integers(1, 9)) for size in stream.shape] for _ in range(rows))
    return [_values(stream, tuple(shape), rng) for shape in shapes]


def _values(stream: Stream, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    if stream.kind == "float":
        return rng.standard_normal(shape, np.float32)
    top = min(stream.vocab_sizes) if stream.kind == "index" else 2
    return rng.integers(0, top, shape).astype(stream.storage_dtype)
