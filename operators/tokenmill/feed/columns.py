"""Rows as a training job gets them: numpy arrays per stream and per companion column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest
from tokenmill_schemas.tokens import Stream

Values = npt.NDArray[Any] | list[npt.NDArray[Any]]
Batch = dict[str, Values]


@dataclass(frozen=True, slots=True)
class Projection:
    """What of a store's columns is read: some streams' tokens, and some other columns."""

    layout: ShardLayout
    streams: tuple[Stream, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls, layout: ShardLayout, streams: tuple[str, ...] | None, columns: tuple[str, ...]
    ) -> Projection:
        """Return the projection of ``layout``; ``streams`` None means all of them.

        Raises:
            JobError: there is no such stream or column; names the nearest one.
        """
        there = [stream.name for stream in layout.spec.streams]
        own = {name for s in there for name in (s, f"{s}.shape")}
        others = [name for name in layout.schema.names if name not in own]
        wanted = there if streams is None else list(streams)
        check_names("feed.streams", wanted, there)
        check_names("feed.columns", columns, others)
        chosen = tuple(layout.spec[name] for name in wanted)
        return cls(layout, chosen, tuple(columns))

    def stored(self, stream: Stream) -> list[str]:
        """Names of the columns that hold one stream."""
        return [stream.name] if stream.is_fixed else [stream.name, f"{stream.name}.shape"]


class Batches(Protocol):
    """The tokens of a chunk's batches: those of one are made, or have been, when it is indexed."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Values: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several batches of ``share`` rows: tokens a batch, columns of all of them."""

    streams: Mapping[str, Batches]
    columns: dict[str, pa.Array]
    share: int

    def batch(self, index: int) -> Batch:
        """Return one batch: its tokens, and its columns as numpy arrays.

        To be taken once: tokens may be copied from their shards here, into arrays of their own.
        """
        batch: Batch = {name: values[index] for name, values in self.streams.items()}
        for name, array in self.columns.items():
            batch[name] = to_numpy(array.slice(index * self.share, self.share))
        return batch

    def loaded(self) -> Chunk:
        """Return the chunk with all tokens copied: for threads that read ahead of who uses them."""
        streams = {n: [v[i] for i in range(len(v))] for n, v in self.streams.items()}
        return Chunk(streams, self.columns, self.share)


def to_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """Return an Arrow array as numpy: numbers as they are, lists of one size as a matrix.

    Text, variable lists, and integers or booleans among which there are nulls come as objects
    (None for null); a null among floats is NaN.
    """
    kind = array.type
    if pa.types.is_fixed_size_list(kind) and not array.null_count:
        return to_numpy(array.flatten()).reshape(len(array), kind.list_size)
    if pa.types.is_floating(kind):
        return np.array(array.to_numpy(zero_copy_only=False))
    if (pa.types.is_integer(kind) or pa.types.is_boolean(kind)) and not array.null_count:
        return np.array(array.to_numpy(zero_copy_only=False))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return text
    out = np.empty(len(array), object)
    out[:] = array.to_pylist()
    return out


def check_names(path: str, wanted: Sequence[str], there: list[str]) -> None:
    """Check that all of ``wanted`` are ``there``, each once.

    Raises:
        JobError: one is not; names the nearest one.
    """
    for name in wanted:
        if name not in there:
            raise JobError(f"there is no {name!r}; {nearest(name, there)}", path=path)
    if len(set(wanted)) != len(wanted):
        raise JobError(f"names one twice: {list(wanted)}", path=path)
