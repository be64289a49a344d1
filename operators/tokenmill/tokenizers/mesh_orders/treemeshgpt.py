"""The order of TreeMeshGPT: a depth-first walk over half-edges, one step a face and a stop an end.

Lionar et al., "TreeMeshGPT: Artistic Mesh Generation with Autoregressive Tree Sequencing",
arXiv:2503.11629; the official ids are those of sail-sg/TreeMeshGPT (its ``EdgesDataset``). Two
aligned streams: at each step the model reads ``edge``, two vertices, and answers with ``next``, the
vertex that makes a face of it, or with a stop.

- Vertices are sorted by z, y, x, faces by their third, second and first corner. The half-edges of
  a face start at its third corner.
- A component begins with its first half-edge (a, b) of the first face that is left, in three
  steps: none -> a; (a, none) -> b; (a, b) -> c, the face's third vertex.
- Then half-edges are taken from a stack, on which a face lays (first face only) the half-edge that
  it was entered by, its left one (c, a) and, on top, its right one (b, c). One that is taken is
  read backwards, as the face on its other side has it: if that face is left, the answer is its
  third vertex and it lays its own two half-edges on the stack; else the answer is a stop.
- At the end of all components the model reads none and answers with the end, ``eos``.

So ``edge`` is a function of what was answered before (`edges_after`), and every answered vertex
makes the face (edge[0], edge[1], next). The authors cut off the stops before the end when they
train; they are stored here, since the walk takes them.

In ``edge`` [n, 6], x y z of two vertices, the id ``bins`` is ``none``; in ``next`` [n, 3] it is
``stop`` and ``bins + 1`` is ``eos``, in all three coordinates. (The authors predict z, then y and
x, and only z knows the two special ids.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenmill.tokenizers.mesh_orders.common import Ids, Ints, Order, Soup, numbered
from tokenmill_schemas.errors import AssetError, Reason
from tokenmill_schemas.tokens import Axis, Stream

#: In `Steps`: no vertex, or a stop.
NONE = -1
END = -2


@dataclass(frozen=True, slots=True)
class Steps:
    """A walk in numbers: vertices ``int64[V, 3]``, edges ``int64[n, 2]`` and nexts ``int64[n]``.

    `NONE` in an edge is no vertex, in nexts a stop; the last of nexts is `END`.
    """

    vertices: Ints
    edges: Ints
    nexts: Ints


def streams(bins: int) -> tuple[Stream, ...]:
    """Return ``edge`` and ``next``, see the top of this module."""
    return (
        Stream(
            "edge",
            "index",
            (Axis("n"), Axis("coord", 6)),
            (bins + 1,),
            order="sequence",
            special_ids=(("none", bins),),
        ),
        Stream(
            "next",
            "index",
            (Axis("n"), Axis("coord", 3)),
            (bins + 2,),
            order="sequence",
            special_ids=(("stop", bins), ("eos", bins + 1)),
            aligned_with="edge",
        ),
    )


def encode(soup: Soup, bins: int) -> dict[str, Ints]:
    """Return ``edge`` ``int64[n, 6]`` and ``next`` ``int64[n, 3]``; n is 2 F + 4 a component + 1.

    Raises:
        AssetError: ``non_manifold``, see `twins_of`.
    """
    steps = walked(soup)
    special = np.array([[bins + 1] * 3, [bins] * 3])  # rows -2 and -1
    table = np.vstack([steps.vertices, special])
    return {"edge": table[steps.edges].reshape(-1, 6), "next": table[steps.nexts]}


def walked(soup: Soup) -> Steps:
    """Return the walk over a soup, in numbers.

    Raises:
        AssetError: ``non_manifold``, see `twins_of`.
    """
    vertices, faces = numbered(soup)
    faces = faces[np.lexsort(faces.T)][:, [2, 0, 1]]
    start, end = faces.reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    apex = faces[:, [2, 0, 1]].reshape(-1)
    walk = depth_first(twins_of(start, end).tolist())
    taken, found = np.array(walk.taken, np.int64), np.array(walk.found, np.int64)
    roots, begins = np.array(walk.roots, np.int64), np.array(walk.begins, np.int64)
    heads = begins + 3 * np.arange(len(begins))
    place = np.arange(len(taken))
    place += 3 * np.repeat(np.arange(1, len(begins) + 1), np.diff(begins, append=len(taken)))
    edges = np.full((len(taken) + 3 * len(begins) + 1, 2), NONE)
    nexts = np.full(len(edges), NONE)
    edges[place, 0], edges[place, 1] = end[taken], start[taken]
    nexts[place] = np.where(found == NONE, NONE, apex[found])
    edges[heads + 1, 0] = edges[heads + 2, 0] = nexts[heads] = start[roots]
    edges[heads + 2, 1] = nexts[heads + 1] = end[roots]
    nexts[heads + 2] = apex[roots]
    nexts[-1] = END
    return Steps(vertices, edges, nexts)


def twins_of(start: Ints, end: Ints) -> Ints:
    """Return the half-edge that runs the other way, or -1, for half-edges start -> end.

    Raises:
        AssetError: ``non_manifold``: a face has two equal corners, two faces run the same way along
            an edge (three or more meet in it, or their senses of rotation differ), or more than one
            border passes through a vertex.
    """
    if (start == end).any():
        raise _refused("a face has two equal corners")
    keys = np.minimum(start, end) * (int(end.max(initial=0)) + 1) + np.maximum(start, end)
    order = np.argsort(keys)
    ordered = keys[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    one, other = order[same], order[same + 1]
    clash = start[one] == start[other]  # among three or more, two run the same way
    clash[1:] |= np.diff(same) == 1
    if clash.any():
        count = len(np.unique(keys[one[clash]]))
        raise _refused(f"at {count} edges faces run the same way, or more than two meet")
    twins = np.full(len(start), NONE)
    twins[one], twins[other] = other, one
    borders = np.bincount(start[twins == NONE])
    if (borders > 1).any():
        raise _refused(f"{int((borders > 1).sum())} vertices lie on more than one border")
    return twins


def _refused(what: str) -> AssetError:
    return AssetError(Reason.NON_MANIFOLD, f"the treemeshgpt order needs a manifold mesh: {what}")


@dataclass(frozen=True, slots=True)
class Walk:
    """Half-edges in the order in which a walk takes them from its stack.

    Attributes:
        taken: every half-edge.
        found: the half-edge on its other side that leads to a new face; -1 for a stop.
        roots: the half-edge that each component begins with.
        begins: how many were taken before each component.
    """

    taken: list[int]
    found: list[int]
    roots: list[int]
    begins: list[int]


def depth_first(twins: list[int]) -> Walk:
    """Return the walk; half-edges 3 f, 3 f + 1 and 3 f + 2 are those of face f, in turn."""
    seen = bytearray(len(twins) // 3 + 1)
    seen[-1] = 1  # the face of a twin of -1: beyond a border there is nothing new
    walk = Walk([], [], [], [])
    taken, found = walk.taken, walk.found
    for root in range(0, len(twins), 3):
        if seen[root // 3]:
            continue
        seen[root // 3] = 1
        walk.roots.append(root)
        walk.begins.append(len(taken))
        stack = [root, root + 2, root + 1]
        while stack:
            half = stack.pop()
            taken.append(half)
            twin = twins[half]
            face = twin // 3
            if seen[face]:
                found.append(NONE)
                continue
            seen[face] = 1
            found.append(twin)
            first = 3 * face
            stack.append(twin - 1 if twin > first else first + 2)
            stack.append(twin + 1 if twin < first + 2 else first)
    return walk


def edges_after(nexts: Ids, bins: int) -> Ints:
    """Return the stream ``edge`` ``int64[n, 6]`` that belongs to answers ``next`` ``[n, 3]``.

    This is what a model that generates is given, step by step: the edge at step i depends on the
    answers before it alone.

    Raises:
        ValueError: answers go on behind the end, or a component stops before its first face.
    """
    none = (bins,) * 3
    edges: list[tuple[int, ...]] = []
    stack: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(none, none)]
    for answer in map(tuple, np.asarray(nexts).tolist()):
        if not stack:
            raise ValueError(f"answer {len(edges)} comes after the end")
        one, two = stack.pop()
        edges.append((*one, *two))
        if two == none and answer == none:
            raise ValueError(f"answer {len(edges) - 1} stops before the first face of a component")
        if answer == (bins + 1,) * 3:
            stack.clear()
            continue
        if one == none:
            stack.append((answer, none))
        elif two == none:
            stack += [(answer, one), (one, answer)]
        elif answer != none:
            stack += [(one, answer), (answer, two)]
        if not stack:
            stack.append((none, none))
    return np.array(edges, np.int64).reshape(-1, 6)


def decode(tokens: Mapping[str, Ids], bins: int) -> Soup:
    """Return the faces in the order of the walk: the encoded set of oriented triangles.

    Which corner comes first, and the order of faces, are lost.

    Raises:
        ValueError: the streams differ in length.
    """
    edge, after = (np.asarray(tokens[name]).astype(np.int32) for name in ("edge", "next"))
    if len(edge) != len(after):
        raise ValueError(f"edge has {len(edge)} steps and next {len(after)}; they must be the same")
    faces = np.concatenate([edge, after], axis=1).reshape(-1, 3, 3)
    return faces[(faces < bins).all(axis=(1, 2))]


ORDER = Order(streams, encode, decode)
