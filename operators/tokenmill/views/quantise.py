"""Meshes on an integer grid, by the rules of the tokenizers that read them as sequences.

========== ========================================== ============================================
rule       vertices                                   faces
========== ========================================== ============================================
meshxl     longest side to [-1, 1]; float32;          all, as stored
           ``rint((v + 1) / 2 * bins - 0.5)``
treemeshgpt diagonal + 1e-6 to 1, in [-0.5, 0.5];     less those with two equal corners, and repeats
           ``rint((v + 0.5) * (bins - 1))``           in the same sense of rotation
amt        longest side to [-0.5, 0.5], done twice    less those of no area, and repeats of the same
           over; ``rint((v + 0.5) * bins - 0.5)``     three corners in any order
========== ========================================== ============================================

All round half to even and stay in [0, bins). Faces and corners keep their stored order, the first
of repeats stays: the orders of MeshXL (Chen et al., arXiv:2405.20853), TreeMeshGPT (Lionar et al.,
arXiv:2503.11629) and adjacent mesh tokenization (Chen et al., MeshAnything V2, arXiv:2408.02555)
are their tokenizers' business. Vertices that fall on one grid point are one vertex.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.views.normalise import Floats, Measure, Normalise, applied, measure

Ints = npt.NDArray[np.int64]
Soup = npt.NDArray[np.int32]
Rule = Literal["meshxl", "treemeshgpt", "amt"]

#: What each rule normalises by, and the size that it gives that.
MEASURES: dict[Rule, tuple[Normalise, float]] = {
    "meshxl": ("longest_side", 2.0),
    "treemeshgpt": ("diagonal", 1.0),
    "amt": ("longest_side", 1.0),
}


def measured(vertices: Floats, rule: Rule) -> Measure:
    """Return the centre and the size that ``rule`` normalises ``float64[V, 3]`` by.

    Raises:
        AssetError: as `tokenmill.views.normalise.measure`.
    """
    found = measure(vertices, MEASURES[rule][0])
    margin = 1e-6 if rule == "treemeshgpt" else 0.0
    return dataclasses.replace(found, size=found.size + margin)


def normalised(vertices: Floats, found: Measure, rule: Rule) -> Floats:
    """Return ``float64[V, 3]`` in the box of ``rule``."""
    kind, extent = MEASURES[rule]
    placed = applied(vertices, found, kind, extent)
    if rule == "amt":  # its data set normalises what its preparation has normalised
        placed = applied(placed, measure(placed, kind), kind, extent)
    np.clip(placed, -extent / 2, extent / 2, out=placed)
    return placed


def binned(placed: Floats, rule: Rule, bins: int) -> Soup:
    """Return ``int32[..., 3]`` bins of normalised coordinates."""
    steps: npt.NDArray[np.floating[Any]]
    if rule == "meshxl":
        share = (placed.astype(np.float32) + np.float32(1)) / np.float32(2)
        steps = share * np.float32(bins) - np.float32(0.5)
    elif rule == "treemeshgpt":
        steps = (placed + 0.5) * (bins - 1)
    else:
        steps = (placed + 0.5) * bins - 0.5
    whole: Soup = np.clip(np.rint(steps), 0, bins - 1).astype(np.int32)
    return whole


def cleaned(soup: Soup, rule: Rule) -> Soup:
    """Return the triangles ``int32[F, 3, 3]`` that ``rule`` keeps, in their order."""
    if rule == "meshxl":
        return soup
    soup = soup[_has_area(soup) if rule == "amt" else _has_corners(soup)]
    numbers = _vertex_numbers(soup)
    alike = np.sort(numbers, axis=1) if rule == "amt" else _least_first(numbers)
    _, first = np.unique(alike, axis=0, return_index=True)
    kept: Soup = soup[np.sort(first)]
    return kept


def _has_corners(soup: Soup) -> npt.NDArray[np.bool_]:
    a, b, c = soup[:, 0], soup[:, 1], soup[:, 2]
    good: npt.NDArray[np.bool_] = (a != b).any(axis=1) & (b != c).any(axis=1) & (c != a).any(axis=1)
    return good


def _has_area(soup: Soup) -> npt.NDArray[np.bool_]:
    whole = soup.astype(np.int64)
    u, v = whole[:, 1] - whole[:, 0], whole[:, 2] - whole[:, 0]
    x, y, z = u.T
    r, s, t = v.T
    good: npt.NDArray[np.bool_] = (y * t != z * s) | (z * r != x * t) | (x * s != y * r)
    return good


def _vertex_numbers(soup: Soup) -> Ints:
    """Return ``int64[F, 3]``: equal for corners on one grid point."""
    side = int(soup.max(initial=0)) + 1
    x, y, z = np.moveaxis(soup.astype(np.int64), -1, 0)
    numbers: Ints = (x * side + y) * side + z
    return numbers


def _least_first(numbers: Ints) -> Ints:
    """Return faces turned so that the least corner comes first; their sense stays."""
    place = (numbers.argmin(axis=1)[:, None] + np.arange(3)) % 3
    return np.take_along_axis(numbers, place, axis=1)
