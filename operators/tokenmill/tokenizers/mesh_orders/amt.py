"""Adjacent mesh tokenization: strips of faces, one vertex a face, a restart between strips.

Chen et al., "MeshAnything V2: Artist-Created Mesh Generation with Adjacent Mesh Tokenization",
arXiv:2408.02555. Vertices are sorted by z, y, x; a face is its three vertices, sorted; faces are
sorted. A strip begins with the first face that is left. While a face that is left has the strip's
last two vertices (the first such face, where more than two meet in an edge), its third vertex is
appended. So each three vertices in a row, within a strip, are a face.

A vertex is three ids x, y, z; the restart ``bins`` stands between strips, not around them. The
authors' language model sees ids + 3 behind its own begin, end and padding 0, 1 and 2: the special
ids ``lm_offset``, ``lm_bos``, ``lm_eos``, ``lm_pad`` say so, and only ``restart`` is ever stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenmill.tokenizers.mesh_orders.common import Ids, Ints, Order, Soup, numbered
from tokenmill_schemas.tokens import Axis, Stream

RESTART = -1


def streams(bins: int) -> tuple[Stream, ...]:
    """Return ``mesh``: coordinates below ``bins``, and ``bins`` as the restart."""
    special = (("restart", bins), ("lm_offset", 3), ("lm_bos", 0), ("lm_eos", 1), ("lm_pad", 2))
    axes = (Axis("n"),)
    return (Stream("mesh", "index", axes, (bins + 1,), order="sequence", special_ids=special),)


def encode(soup: Soup, bins: int) -> dict[str, Ints]:
    """Return ``mesh``, ``int64[n]``; any soup has one, even with faces that repeat or collapse."""
    vertices, numbers = numbered(soup)
    faces = np.sort(numbers, axis=1)
    faces = faces[np.lexsort(faces.T[::-1])]
    walk = np.array(strips(faces, len(vertices)), np.int64)
    table = np.vstack([vertices, np.full((1, 3), bins)])  # RESTART, -1, is its last row
    stored = np.ones((len(walk), 3), bool)
    stored[walk == RESTART, 1:] = False
    return {"mesh": table[walk][stored]}


@dataclass(frozen=True, slots=True)
class Edges:
    """Which faces meet in an edge; place ``3 f + k`` is the edge of face f opposite its corner k.

    Attributes:
        of_place: the number of the edge at each place, ``3 F``.
        first: where the edges begin in ``places``.
        last: where they end.
        places: places in the order of their edges, those of one edge in the order of faces.
    """

    of_place: list[int]
    first: list[int]
    last: list[int]
    places: list[int]


def edges_of(faces: Ints, vertices: int) -> Edges:
    """Return the edges of sorted faces ``int64[F, 3]``."""
    low, high = faces[:, [1, 0, 0]].reshape(-1), faces[:, [2, 2, 1]].reshape(-1)
    keys = low * vertices + high
    places = np.argsort(keys, kind="stable")
    ordered = keys[places]
    new = np.ones(len(keys), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    of_place = np.empty(len(keys), np.int64)
    of_place[places] = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(keys))
    return Edges(of_place.tolist(), first.tolist(), last.tolist(), places.tolist())


def strips(faces: Ints, vertices: int) -> list[int]:
    """Return the numbers of the strips' vertices, with `RESTART` between strips.

    ``faces`` ``int64[F, 3]`` are sorted, in themselves and as rows. The time is that of F: an edge
    remembers which of its faces it has passed.
    """
    edges, corners = edges_of(faces, vertices), faces.reshape(-1).tolist()
    of_place, cursor, last, places = edges.of_place, edges.first, edges.last, edges.places
    seen = bytearray(len(faces))
    walk: list[int] = []
    for start in range(0, len(corners), 3):
        if seen[start // 3]:
            continue
        seen[start // 3] = 1
        older, newer = corners[start + 1], corners[start + 2]
        walk += (RESTART, corners[start], older, newer)
        edge = of_place[start]
        while True:
            at, end = cursor[edge], last[edge]
            while at < end and seen[places[at] // 3]:
                at += 1
            cursor[edge] = at
            if at == end:
                break
            place = places[at]
            face = place // 3
            seen[face] = 1
            # The next edge is opposite the older vertex of this one.
            across = 3 * face
            while corners[across] != older:
                across += 1
            edge = of_place[across]
            older, newer = newer, corners[place]
            walk.append(newer)
    return walk[1:]


def decode(tokens: Mapping[str, Ids], bins: int) -> Soup:
    """Return the faces in the order of the strips: the encoded set, with sense and order lost.

    Repeated faces stay as often as they were.

    Raises:
        ValueError: a strip is no whole number of vertices, or fewer than three.
    """
    ids = np.asarray(tokens["mesh"]).astype(np.int64)
    restart = ids == bins
    strip = np.cumsum(restart)[~restart]
    counts = np.bincount(strip, minlength=int(restart.sum()) + 1) if len(ids) else np.zeros(0, int)
    wrong = np.flatnonzero((counts % 3 != 0) | (counts < 9))
    if len(wrong):
        text = f"strip {wrong[0]} has {counts[wrong[0]]} ids; a vertex has 3, a strip 9 or more"
        raise ValueError(text)
    corners = ids[~restart].reshape(-1, 3)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    whole = strip[: -6 if len(strip) else None : 3] == strip[6::3]
    found: Soup = faces[whole].astype(np.int32)
    return found


ORDER = Order(streams, encode, decode)
