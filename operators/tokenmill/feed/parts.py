"""What a feed reads: one store, or a mixture of several by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tokenmill.feed.rows.opening import Opened, Wanted, open_snapshot
from tokenmill.feed.sequence.blend import Blend, integer_weights
from tokenmill.feed.shards.files import ShardCache
from tokenmill.store import Store
from tokenmill_schemas.errors import FingerprintError, JobError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.strict import nearest
from tokenmill_schemas.tokens import Stream

#: How a version is named; a snapshot is itself.
Ref = int | str | Snapshot | None


@dataclass(frozen=True, slots=True)
class Part:
    """One store of a mixture: which version and which samples of it, and how often.

    ``weight`` is its share of the samples (of the windows or batches, where rows are packed or
    bucketed) beside the other weights. ``offsets`` are added to the ids of a stream, which sets a
    vocabulary apart from those of other stores. ``name`` is for people; "" is the store's URI.
    """

    store: Store | str
    weight: float = 1.0
    ref: Ref = None
    since: Ref = None
    where: str = ""
    offsets: Mapping[str, int] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several stores as one sequence.

    ``stages`` change the weights: ``((10_000, (1, 3)), ...)`` are those from step 10,000 on. Where
    every store stands then is exact, too.
    """

    parts: Sequence[Part]
    stages: Sequence[tuple[int, Sequence[float]]] = ()

    def blend(self, step_items: int) -> Blend:
        """Return which item is of which part, for steps of ``step_items`` items.

        Raises:
            JobError: weights or stages are impossible.
        """
        first = (0, integer_weights([part.weight for part in self.parts]))
        stages = [first, *((s * step_items, integer_weights(w)) for s, w in self.stages)]
        starts = [start for start, _ in stages]
        if sorted(set(starts)) != starts:
            raise JobError(
                f"begin at steps {[s for s, _ in self.stages]}; they must rise from 1 on",
                path="mixture.stages",
            )
        if any(len(weights) != len(self.parts) for _, weights in stages):
            raise JobError(
                f"each needs {len(self.parts)} weights, one a part", path="mixture.stages"
            )
        return Blend(tuple(stages))


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of every part: streams (None: all of the stores' own) and other columns."""

    streams: tuple[str, ...] | None
    columns: tuple[str, ...]
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class OpenedPart:
    """A part, ready to be read."""

    part: Part
    store: Store
    snapshot: Snapshot
    opened: Opened

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.part.name or self.store.uri


def open_parts(
    mixture: Mixture, reading: Reading, cache: ShardCache
) -> tuple[tuple[OpenedPart, ...], tuple[Stream, ...]]:
    """Open every part; return them, and the streams as a batch has them.

    Raises:
        JobError: there is no such stream or column, or a setting of a part is impossible.
        FingerprintError: a part has tokens of another kind than was asked for or than another
            part's, and no offsets set them apart.
        StoreError: there is no such store or version.
    """
    if not mixture.parts:
        raise JobError("has no parts", path="mixture")
    parts = tuple(open_part(part, reading=reading, cache=cache) for part in mixture.parts)
    return parts, merged_streams(parts)


def open_part(
    part: Part, taken: int | None = None, *, reading: Reading, cache: ShardCache
) -> OpenedPart:
    """Open one part, and pin the version that it names; ``taken`` as in `Wanted`."""
    store = Store.open(part.store) if isinstance(part.store, str) else part.store
    snapshot = _snapshot(store, part.ref)
    if reading.fingerprint and snapshot.fingerprint != reading.fingerprint:
        raise FingerprintError(
            f"snapshot {snapshot.number} has fingerprint {snapshot.fingerprint[:12]}, asked for "
            f"was {reading.fingerprint[:12]}: its tokens are of another kind",
            uri=store.uri,
        )
    before = None if part.since is None else _snapshot(store, part.since)
    wanted = Wanted(reading.streams, reading.columns, before, part.where, taken)
    # What was opened is pinned, so that a copy of the feed in another process reads the same.
    part = replace(part, store=store, ref=snapshot, since=before)
    return OpenedPart(part, store, snapshot, open_snapshot(store, snapshot, wanted, cache))


def _snapshot(store: Store, ref: Ref) -> Snapshot:
    found: Snapshot = ref if isinstance(ref, Snapshot) else store.snapshot(ref)
    return found


def merged_streams(parts: Sequence[OpenedPart]) -> tuple[Stream, ...]:
    """Return the streams of all parts: their ids moved, their vocabularies laid side by side."""
    for part in parts:
        names = [stream.name for stream in part.opened.streams if stream.kind == "index"]
        for name, offset in part.part.offsets.items():
            if name not in names:
                raise JobError(f"no stream of ids {name!r}; {nearest(name, names)}", path="offsets")
            if offset < 0:
                raise JobError(f"{name} = {offset} is negative", path="offsets")
    first = parts[0].opened.streams
    for part in parts[1:]:
        found = [stream.name for stream in part.opened.streams]
        if found != [stream.name for stream in first]:
            raise JobError(
                f"{part.name} has {found}, {parts[0].name} has {[s.name for s in first]}: name "
                "with streams= those that all parts have",
                path="feed.streams",
            )
    columns = zip(*(part.opened.streams for part in parts), strict=True)
    return tuple(_merge(streams, parts) for streams in columns)


def merged_columns(parts: Sequence[OpenedPart]) -> dict[str, pa.DataType]:
    """Return the type of every column that is read: one that holds the values of all parts.

    Raises:
        JobError: a column is of types that have nothing in common.
    """
    opened = [part.opened for part in parts]
    merged: dict[str, pa.DataType] = {}
    for i, name in enumerate(opened[0].columns):
        kinds = [some.kinds[i] for some in opened]
        try:
            schemas = [pa.schema([(name, kind)]) for kind in kinds]
            merged[name] = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            found = ", ".join(
                f"{kind} in {part.name}" for kind, part in zip(kinds, parts, strict=True)
            )
            raise JobError(
                f"{name!r} is {found}: they have no common batch, leave it out", path="feed.columns"
            ) from error
    return merged


def _merge(streams: Sequence[Stream], parts: Sequence[OpenedPart]) -> Stream:
    first = streams[0]
    for stream, part in zip(streams, parts, strict=True):
        same = (stream.kind, stream.width_bits, stream.channels, stream.dtype, len(stream.axes))
        if same != (first.kind, first.width_bits, first.channels, first.dtype, len(first.axes)):
            raise JobError(
                f"{first.name!r} is {stream.kind} of {len(stream.axes)} axes in {part.name}, "
                f"{first.kind} of {len(first.axes)} in {parts[0].name}: they have no common batch",
                path="feed.streams",
            )
    kinds = zip(streams, parts, strict=True)
    if len({(part.snapshot.fingerprint, stream.vocab_sizes) for stream, part in kinds}) > 1:
        _check_apart(streams, parts)
    axes = tuple(
        replace(axis, size=axis.size if len({s.axes[i].size for s in streams}) == 1 else None)
        for i, axis in enumerate(first.axes)
    )
    tops = [
        tuple(size + part.part.offsets.get(first.name, 0) for size in stream.vocab_sizes)
        for stream, part in zip(streams, parts, strict=True)
    ]
    if len(set(tops)) == 1:
        return replace(first, axes=axes, vocab_sizes=tops[0])
    return replace(first, axes=axes, vocab_sizes=(max(max(top) for top in tops),))


def _check_apart(streams: Sequence[Stream], parts: Sequence[OpenedPart]) -> None:
    """Check that tokens of different fingerprints cannot be taken for one another."""
    name, kind = streams[0].name, streams[0].kind
    ranges = []
    for stream, part in zip(streams, parts, strict=True):
        if kind != "index" or name not in part.part.offsets:
            mend = (
                f"declare the first id of each with Part(..., offsets={{{name!r}: n}})"
                if kind == "index"
                else f"{kind} tokens have no offsets: read them in feeds of their own"
            )
            raise FingerprintError(
                f"stream {name!r} of {part.name} has fingerprint "
                f"{part.snapshot.fingerprint[:12]}, that of {parts[0].name} "
                f"{parts[0].snapshot.fingerprint[:12]}: tokens of different tokenizers; {mend}",
                uri=part.store.uri,
            )
        start = part.part.offsets[name]
        vocabulary = (part.snapshot.fingerprint, stream.vocab_sizes)
        ranges.append((start, start + max(stream.vocab_sizes), vocabulary, part))
    ranges.sort(key=lambda entry: entry[:2])
    for (_, end, mine, one), (start, _, its, other) in pairwise(ranges):
        if start < end and mine != its:
            raise FingerprintError(
                f"ids of {name!r} of {one.name} end at {end}, those of {other.name} begin at "
                f"{start}: the offsets leave no room between different vocabularies",
                uri=other.store.uri,
            )


def moved(values: Any, offset: int, dtype: str) -> Any:
    """Return ids (an array or a list of them) raised by ``offset``, as ``dtype``."""
    if isinstance(values, list):
        return [moved(array, offset, dtype) for array in values]
    if not offset:
        return values if values.dtype == dtype else values.astype(dtype)
    return (values.astype(np.int64) + offset).astype(dtype)
