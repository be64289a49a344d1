"""Parts of a stream, and ids looked up in a table."""

from __future__ import annotations

from dataclasses import dataclass

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, as_ids, each, problem, values_of


@dataclass(frozen=True, slots=True)
class Take:
    """Adds ``into``: entries ``start .. stop`` of one axis of a stream.

    Of residual codes (RQ-Transformer, arXiv:2203.01941) a few first depths are a coarser picture;
    EvoTok's first four draw pixels and all sixteen tell the meaning.

    Attributes:
        name: the stream.
        into: what it is called, perhaps the same.
        start, stop: which entries.
        axis: of a sample, from its end (negative) or its beginning.
    """

    name: str
    into: str
    start: int
    stop: int
    axis: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise problem(f"takes {self.start} to {self.stop} of {self.name!r}")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the part.

        Raises:
            JobError: the axis has fewer entries.
        """
        del draw
        return {**batch, self.into: each(values_of(batch, self.name), self._taken)}

    def _taken(self, values: Array) -> Array:
        axis = self.axis if self.axis < 0 else self.axis + 1
        if not -values.ndim < axis < values.ndim or values.shape[axis] < self.stop:
            raise problem(
                f"{self.name!r} is {values.shape[1:]} and has no {self.stop} entries on axis "
                f"{self.axis}"
            )
        cut = [slice(None)] * values.ndim
        cut[axis] = slice(self.start, self.stop)
        return values[tuple(cut)]


@dataclass(frozen=True, slots=True, eq=False)
class MapIds:
    """Replaces ids by what a table says: ``int64[...]``.

    Chameleon (arXiv:2405.09818) keeps its image ids at places of their own among a text model's.
    """

    name: str
    table: Array

    def __post_init__(self) -> None:
        if self.table.ndim != 1 or self.table.dtype.kind not in "ui":
            raise problem(f"a table of ids is int[V], got {self.table.dtype}{self.table.shape}")

    @property
    def vocab_size(self) -> int:
        """All ids it gives are below."""
        return int(self.table.max()) + 1

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the ids.

        Raises:
            JobError: one is not in the table.
        """
        del draw
        return {**batch, self.name: each(values_of(batch, self.name), self._mapped)}

    def _mapped(self, values: Array) -> Array:
        ids = as_ids(values)
        if ids.size and int(ids.max()) >= len(self.table):
            raise problem(f"{self.name!r} has id {ids.max()}, the table {len(self.table)} entries")
        return self.table[ids].astype("int64")
