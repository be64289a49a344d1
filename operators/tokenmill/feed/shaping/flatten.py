"""One sequence of ids out of streams: offsets, residual depth, product codes, specials, EOL rows.

The vocabulary of the sequence is laid out as: the text model's ids, then special ids, then each
piece's sizes and books, one after the other. `Flatten.vocab_size` is the embedding table's size.

Residual depth and product codes as ids of their own follow RQ-Transformer (Lee et al.,
arXiv:2203.01941); ids beside a text vocabulary with begin and end of image, Chameleon
(arXiv:2405.09818) and SEED (arXiv:2310.01218); rows that end in EOL behind a size header, Emu3
(arXiv:2409.18869). Depth-major sequences over shared positions are those of MusicGen's "flattening"
and "parallel" patterns (Copet et al., arXiv:2306.05284).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import numpy as np

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, Ids, as_ids, positive, problem, values_of
from tokenmill.feed.shaping.layout import Grid, Layout, interleaved, one_after_another
from tokenmill_schemas.tokens import Stream

DepthOrder = Literal["position_major", "depth_major"]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """One stream's place in a sequence.

    Attributes:
        name: the stream, of ids ``[*grid]``, or ``[*grid, depth]``.
        vocab_sizes: one size, or one for each entry of the depth.
        depth: ids of one position, on the last axis (residual levels, product codes,
            coordinates); 0 if there is no such axis.
        order: all ids of a position together, or all positions of a depth.
        shared: all depths use one vocabulary (`vocab_sizes` then has one entry); otherwise each
            has its own.
        begin, end, row_end, frame_end: names of `Flatten.specials` to put before and after the
            piece, after each row (the last grid axis) and after each frame (the two last ones).
        sizes: if positive, the grid's sizes come first, as ids of a vocabulary of ``1..sizes``.
        headers: ids to put first for a grid, as the text model writes its size (Emu3's "h*w").
    """

    name: str
    vocab_sizes: tuple[int, ...]
    depth: int = 0
    order: DepthOrder = "position_major"
    shared: bool = False
    begin: str = ""
    end: str = ""
    row_end: str = ""
    frame_end: str = ""
    sizes: int = 0
    headers: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        positive(f"vocab_sizes of {self.name!r}", self.vocab_sizes)
        if len(self.vocab_sizes) not in {1, max(1, self.depth)} or (
            self.shared and len(self.vocab_sizes) > 1
        ):
            raise problem(
                f"{self.name!r} has {len(self.vocab_sizes)} vocabularies for {self.depth} ids a "
                "position: give one size, or one for each and not shared"
            )
        if self.depth and self.order == "depth_major" and (self.row_end or self.frame_end):
            raise problem(f"{self.name!r}: rows end only in position-major order")
        if self.sizes and self.headers:
            raise problem(f"{self.name!r}: either sizes or headers")

    @classmethod
    def of(cls, stream: Stream, **settings: Any) -> Piece:
        """Return the piece of a stream as its spec describes it; ``settings`` are the fields above.

        Raises:
            JobError: it is not a stream of ids.
        """
        if stream.kind != "index":
            raise problem(f"{stream.name!r} is a stream of {stream.kind}, not of ids")
        last = stream.axes[-1]
        if last.name not in ("depth", "coord") and len(stream.vocab_sizes) == 1:
            return cls(stream.name, stream.vocab_sizes, **settings)
        if last.size is None:
            raise problem(f"{stream.name!r} has a varying number of ids a position")
        return cls(stream.name, stream.vocab_sizes, last.size, **settings)

    @property
    def books(self) -> tuple[int, ...]:
        """Size of the vocabulary that each id of a position is of; shared ones are one."""
        count = max(1, self.depth)
        return self.vocab_sizes * count if len(self.vocab_sizes) == 1 else self.vocab_sizes

    @property
    def vocab_size(self) -> int:
        """Ids of all its vocabularies together, that of sizes not counted."""
        return self.vocab_sizes[0] if self.shared else sum(self.books)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the grid of one sample's shape.

        Raises:
            JobError: the shape has another depth.
        """
        if not self.depth:
            return shape
        if shape[-1:] != (self.depth,):
            raise problem(f"{self.name!r} has shape {shape} and not {self.depth} ids a position")
        return shape[:-1]


@dataclass(frozen=True, slots=True)
class Flatten:
    """Writes pieces one after the other, or position by position, into one sequence of ids.

    Papers: RQ-Transformer (arXiv:2203.01941) for depth, Chameleon (arXiv:2405.09818) for ids among
    words, Emu3 (arXiv:2409.18869) for rows and sizes, MusicGen (arXiv:2306.05284) for patterns.
    Gives ``into``: int64[B, L], or a list of int64[L] where shapes vary. The streams stay.

    Attributes:
        pieces: what is written, in order.
        into: name of the sequence.
        text_vocab: ids below it are the text model's (an offset, in other words).
        specials: names of special ids, which get the ids after the text's.
        begin, end: names of specials before and after everything.
        interleave: pieces have one grid, and all pieces' ids of a position stand together.
    """

    pieces: tuple[Piece, ...]
    into: str = "tokens"
    text_vocab: int = 0
    specials: tuple[str, ...] = ()
    begin: str = ""
    end: str = ""
    interleave: bool = False

    def __post_init__(self) -> None:
        if not self.pieces:
            raise problem("a sequence needs at least one piece")
        used = {self.begin, self.end}
        for piece in self.pieces:
            used |= {piece.begin, piece.end, piece.row_end, piece.frame_end}
        if unknown := used - {"", *self.specials}:
            raise problem(f"{sorted(unknown)} are not among the specials {list(self.specials)}")
        if self.interleave and any(_has_marks(piece) for piece in self.pieces):
            raise problem("interleaved pieces have no marks of their own; use begin and end of all")

    @classmethod
    def of(cls, streams: tuple[Stream, ...], **settings: Any) -> Flatten:
        """Return the flattening of whole streams; ``settings`` are the fields above."""
        return cls(tuple(Piece.of(stream) for stream in streams), **settings)

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of the specials."""
        return {name: self.text_vocab + i for i, name in enumerate(self.specials)}

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """First id of the vocabulary of each id of a position, for each piece."""
        return _offsets(self)[0]

    @property
    def size_offsets(self) -> tuple[int, ...]:
        """First id of each piece's vocabulary of sizes."""
        return _offsets(self)[1]

    @property
    def vocab_size(self) -> int:
        """Rows of an embedding table for the sequence: all its ids are below."""
        return _offsets(self)[2]

    def length(self, *shapes: tuple[int, ...]) -> int:
        """Return the length of the sequence for one sample's shapes, a shape for each piece."""
        return len(_layout(self, shapes).source)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the sequence.

        Raises:
            JobError: a stream is missing or has another number of axes; says which.
        """
        del draw
        columns = [values_of(batch, piece.name) for piece in self.pieces]
        return {**batch, self.into: self._flatten(columns)}

    def _flatten(self, columns: list[Values]) -> Values:
        if any(isinstance(column, list) for column in columns):
            rows = zip(*columns, strict=True)
            return [self.join([array[None] for array in row])[0] for row in rows]
        return self.join([np.asarray(column) for column in columns])

    def join(self, arrays: list[Array]) -> Ids:
        """Return the sequences int64[B, L] of pieces' ids ``[B, *shape]``."""
        layout = _layout(self, tuple(array.shape[1:] for array in arrays))
        flat = np.concatenate([as_ids(a).reshape(len(a), -1) for a in arrays], axis=1)
        return layout.write(flat)

    def unflatten(self, tokens: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Ids]:
        """Return the pieces of sequences ``[B, L]``: int64[B, *shape] each, as in sampling.

        Special ids and headers are skipped, not checked.

        Raises:
            JobError: the length is not that of the shapes, or an id is not one of its place.
        """
        ordered = tuple(tuple(shapes[piece.name]) for piece in self.pieces)
        layout = _layout(self, ordered)
        flat = layout.read(as_ids(tokens))
        ends = np.cumsum([int(np.prod(shape)) for shape in ordered])[:-1]
        arrays = np.split(flat, ends, axis=1)
        named = zip(self.pieces, ordered, arrays, strict=True)
        return {piece.name: array.reshape(-1, *shape) for piece, shape, array in named}


def _has_marks(piece: Piece) -> bool:
    marks = piece.begin or piece.end or piece.row_end or piece.frame_end
    return bool(marks or piece.sizes or piece.headers)


@lru_cache(maxsize=256)
def _offsets(flatten: Flatten) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...], int]:
    at = flatten.text_vocab + len(flatten.specials)
    offsets, sizes = [], []
    for piece in flatten.pieces:
        sizes.append(at)
        at += piece.sizes
        books = piece.books
        starts = [0 if piece.shared else sum(books[:i]) for i in range(len(books))]
        offsets.append(tuple(at + start for start in starts))
        at += piece.vocab_size
    return tuple(offsets), tuple(sizes), at


@lru_cache(maxsize=256)
def _layout(flatten: Flatten, shapes: Shapes) -> Layout:
    """Return where every id of the sequence comes from, for one sample's shapes."""
    first, layouts = 0, []
    for index, shape in enumerate(shapes):
        layouts.append(_piece(flatten, index, shape, first))
        first += int(np.prod(shape))
    if flatten.interleave:
        joined = interleaved(layouts, _positions(flatten, shapes))
    else:
        joined = one_after_another(layouts)
    ids = flatten.special_ids
    return joined.between(_ids(ids, flatten.begin), _ids(ids, flatten.end))


def _piece(flatten: Flatten, index: int, shape: tuple[int, ...], first: int) -> Layout:
    piece, ids = flatten.pieces[index], flatten.special_ids
    grid = piece.grid(shape)
    body = Grid(grid, flatten.offsets[index], piece.books, first)
    rows, frames = _ids(ids, piece.row_end), _ids(ids, piece.frame_end)
    if piece.order == "depth_major":
        layout = body.depth_major()
    else:
        layout = body.position_major(row_end=rows, frame_end=frames)
    head = chain(_ids(ids, piece.begin), _header(piece, grid, flatten.size_offsets[index]))
    return layout.between(tuple(head), _ids(ids, piece.end))


def _positions(flatten: Flatten, shapes: Shapes) -> int:
    found = {int(np.prod(p.grid(s))) for p, s in zip(flatten.pieces, shapes, strict=True)}
    if len(found) != 1:
        raise problem(f"interleaved pieces need the same number of positions, got {sorted(found)}")
    return found.pop()


def _ids(special_ids: dict[str, int], name: str) -> tuple[int, ...]:
    return (special_ids[name],) if name else ()


def _header(piece: Piece, grid: tuple[int, ...], offset: int) -> tuple[int, ...]:
    if piece.sizes:
        if max(grid) > piece.sizes or min(grid) < 1:
            raise problem(f"{piece.name!r} has grid {grid}; sizes goes up to {piece.sizes}")
        return tuple(offset + size - 1 for size in grid)
    if not piece.headers:
        return ()
    for known, ids in piece.headers:
        if known == grid:
            return ids
    raise problem(f"{piece.name!r} has grid {grid}, for which headers has no ids")
