"""Sequences of varying length: begin and end, cutting where it does no harm, padding, separators.

A mesh sequence is cut only between faces (MeshXL, arXiv:2405.20853: nine ids each) or before a
restart token (MeshAnything V2, arXiv:2408.02555; BPT, arXiv:2411.07025), never inside a vertex.
What was cut has no end token: the sequence did not end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, problem, values_of


def cut_length(ids: Array, limit: int, *, unit: int = 1, restart: int | None = None) -> int:
    """Return how many of a sequence's first tokens are kept within ``limit``.

    Whole units of ``unit`` tokens; with ``restart`` only up to before a restart token, where one is
    in reach. 0 if not even one unit fits.
    """
    if len(ids) <= limit:
        return len(ids)
    if restart is not None:
        at = np.flatnonzero(np.asarray(ids[1 : limit + 1]) == restart)
        return int(at[-1]) + 1 if len(at) else 0
    return limit // unit * unit


@dataclass(frozen=True, slots=True)
class Pad:
    """Makes one array of sequences of varying length: ``[B, length, *tail]``.

    Cut as MeshXL (arXiv:2405.20853) and MeshAnything V2 (arXiv:2408.02555) need it.

    ``"<name>.mask"`` (bool[B, length]) is True where there are tokens, ``"<name>.length"`` int64[B]
    counts them and ``"<name>.cut"`` bool[B] says where some did not fit.

    Attributes:
        name: a list of ``[n, *tail]``, or ``[B, n, *tail]``.
        length: of the result.
        pad: what stands behind a sequence.
        begin, end: ids before and after it; None for none.
        unit: sequences are cut after a multiple of this many tokens.
        restart: sequences are cut before this id instead.
        too_long: whether they are cut at all.
    """

    name: str
    length: int
    pad: int = 0
    begin: int | None = None
    end: int | None = None
    unit: int = 1
    restart: int | None = None
    too_long: str = "cut"

    def __post_init__(self) -> None:
        if self.length < self._extra + self.unit or self.unit < 1:
            raise problem(f"{self.length} tokens hold no unit of {self.unit}")
        if self.too_long not in ("cut", "error"):
            raise problem(f"too_long is 'cut' or 'error', got {self.too_long!r}")

    @property
    def _extra(self) -> int:
        return (self.begin is not None) + (self.end is not None)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Pad the stream.

        Raises:
            JobError: a sequence is too long and ``too_long`` is "error", or cannot be cut.
        """
        del draw
        rows = list(values_of(batch, self.name))
        tails = {row.shape[1:] for row in rows}
        if len(tails) > 1:
            raise problem(f"{self.name!r} has tokens of shapes {sorted(tails)}")
        kind = _widest(rows)
        tail = tails.pop() if tails else ()
        out = np.full((len(rows), self.length, *tail), self.pad, kind)
        lengths = np.zeros(len(rows), np.int64)
        cut = np.zeros(len(rows), np.bool_)
        for i, row in enumerate(rows):
            tokens, cut[i] = self.framed(row)
            lengths[i] = len(tokens)
            out[i, : len(tokens)] = tokens
        mask = np.arange(self.length) < lengths[:, None]
        facts = {"mask": mask, "length": lengths, "cut": cut}
        return {**batch, self.name: out, **{f"{self.name}.{k}": v for k, v in facts.items()}}

    def framed(self, row: Array) -> tuple[Array, bool]:
        """Return a sequence cut to fit, with begin and end, and whether it was cut."""
        room = self.length - self._extra
        kept = cut_length(row, room, unit=self.unit, restart=self.restart)
        if kept < len(row) and (self.too_long == "error" or not kept):
            raise problem(
                f"a sample of {self.name!r} has {len(row)} tokens and {room} fit; they are cut in "
                f"units of {self.unit}"
                + (f" at {self.restart}" if self.restart is not None else "")
            )
        whole = kept == len(row)
        tail = row.shape[1:]
        ends = [
            np.full((1, *tail), token, np.int64)
            for token in (self.begin, self.end if whole else None)
            if token is not None
        ]
        head = ends[: self.begin is not None]
        return np.concatenate([*head, row[:kept], *ends[len(head) :]]), not whole


@dataclass(frozen=True, slots=True)
class SeparateBlocks:
    """Puts a separator after each block of sequences made of blocks of varying length.

    ElasticTok (arXiv:2410.08368) and AdapTok (arXiv:2505.17011) give each block of frames as many
    ids as it needs. ``name`` becomes a list of int64[n + blocks].

    Attributes:
        name: sequences ``[n]``.
        lengths: name of the blocks' lengths ``[blocks]``, whose sum is n.
        separator: the id after each.
    """

    name: str
    lengths: str
    separator: int

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the separators.

        Raises:
            JobError: lengths do not add up.
        """
        del draw
        pairs = zip(values_of(batch, self.name), values_of(batch, self.lengths), strict=True)
        return {**batch, self.name: [self._separated(row, lengths) for row, lengths in pairs]}

    def _separated(self, row: Array, lengths: Array) -> Array:
        ends = np.cumsum(np.asarray(lengths, np.int64))
        if len(row) != (int(ends[-1]) if len(ends) else 0):
            raise problem(f"blocks {list(lengths)} of {self.name!r} are not its {len(row)} ids")
        return np.insert(row.astype(np.int64), ends, self.separator)


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """Adds ``"<name>.block"``: the number of the block that each token is of, a list of int64[n].

    Levels of an octree (OctGPT, arXiv:2504.09975) and blocks of frames differ in length from sample
    to sample.
    """

    name: str
    lengths: str

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the numbers.

        Raises:
            JobError: lengths do not add up.
        """
        del draw
        found = []
        rows, counts = values_of(batch, self.name), values_of(batch, self.lengths)
        for row, lengths in zip(rows, counts, strict=True):
            index = np.repeat(np.arange(len(lengths)), lengths)
            if len(index) != len(row):
                raise problem(f"blocks {list(lengths)} of {self.name!r} are not its {len(row)} ids")
            found.append(index)
        return {**batch, f"{self.name}.block": found}


@dataclass(frozen=True, slots=True)
class Begin:
    """Puts one id before every sequence, a class label among them: ``int64[B, 1 + n]``.

    LlamaGen (arXiv:2406.06525) and most class-conditional generators begin with the class.

    Attributes:
        name: sequences of ids.
        label: name of the labels int[B], whose id is ``offset + label``; "" puts ``offset`` itself.
        offset: first id of the labels.
    """

    name: str
    label: str = ""
    offset: int = 0

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Put the ids."""
        del draw
        values = values_of(batch, self.name)
        labels = np.zeros(len(values), np.int64)
        if self.label:
            labels = np.asarray(values_of(batch, self.label), np.int64)
        heads = labels + self.offset
        return {**batch, self.name: _led(values, heads)}


def _led(values: Values, heads: Array) -> Values:
    if isinstance(values, list):
        return [np.concatenate([h[None], v]) for h, v in zip(heads, values, strict=True)]
    flat = values.reshape(len(values), -1).astype(np.int64)
    return np.concatenate([heads[:, None], flat], axis=1)


def _widest(rows: list[Array]) -> np.dtype[np.generic]:
    if any(row.dtype.kind == "f" for row in rows):
        return np.dtype(np.float32)
    return np.dtype(np.int64)
