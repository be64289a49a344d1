"""Points as small balls and splats as flat discs, in a depth buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Radii in drawn pixels: none vanishes, none costs more than some hundred pixels.
MIN_RADIUS, MAX_RADIUS = 1.0, 14.0
#: Pixels of discs that are sorted together.
MAX_PIXELS = 4_000_000
LIGHT = np.array([-0.45, 0.65, 0.61])
#: Balls far from the eye fade towards this, the farthest by this much: else a cloud looks flat.
MIST, FADE = np.array([0.93, 0.94, 0.955]), 0.6


@dataclass(frozen=True, slots=True)
class Discs:
    """Centres ``float64[N, 3]``, colours ``float64[N, 3]`` and radii ``float64[N]``.

    ``lit`` ones are shaded as balls.
    """

    centers: Floats
    colours: Floats
    radii: Floats
    lit: bool


def draw(canvas: Floats, discs: Discs, seen: Floats, focal: float) -> None:
    """Draw ``discs`` onto ``float64[S, S, 3]``, nearer ones over farther ones.

    ``seen`` is ``float64[N, 3]``: right and up in [-1, 1], and the depth.
    """
    side = len(canvas)
    places = np.column_stack([seen[:, 0] + 1, 1 - seen[:, 1]]) * side / 2
    pixels = np.clip(discs.radii / seen[:, 2] * focal * side / 2, MIN_RADIUS, MAX_RADIUS)
    depths = np.full(side * side, np.inf)
    flat = canvas.reshape(-1, 3)
    step = max(1, int(MAX_PIXELS / (4 * float(pixels.max(initial=1)) ** 2)))
    mist = _mist(seen[:, 2]) if discs.lit else np.zeros(len(seen))
    for start in range(0, len(seen), step):
        some = slice(start, start + step)
        part = _Part(discs, some, places[some], pixels[some], seen[some, 2], mist[some])
        _stamp(flat, depths, part)


def _mist(depths: Floats) -> Floats:
    """Return ``float64[N]`` in [0, `FADE`]: none for the nearest."""
    nearest = float(depths.min(initial=np.inf))
    share = (depths - nearest) / max(float(depths.max(initial=nearest)) - nearest, 1e-12)
    faded: Floats = FADE * share**1.5
    return faded


@dataclass(frozen=True, slots=True)
class _Part:
    """Discs that are drawn together: places and radii in pixels, depths, and how much they fade."""

    discs: Discs
    some: slice
    places: Floats
    pixels: Floats
    depths: Floats
    mist: Floats


def _stamp(flat: Floats, depths: Floats, part: _Part) -> None:
    side = round(len(flat) ** 0.5)
    reach = int(np.ceil(part.pixels.max())) + 1
    steps = np.arange(-reach, reach + 1)
    down, across = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    base = np.floor(part.places).astype(np.int64)
    x, y = base[:, :1] + across, base[:, 1:] + down
    dx = (x + 0.5 - part.places[:, :1]) / part.pixels[:, None]
    dy = (y + 0.5 - part.places[:, 1:]) / part.pixels[:, None]
    away = dx * dx + dy * dy
    disc, place = np.nonzero((away <= 1) & (x >= 0) & (x < side) & (y >= 0) & (y < side))
    target = (y * side + x)[disc, place]
    bulge = np.sqrt(1 - away[disc, place])
    radii = part.discs.radii[part.some]
    depth = part.depths[disc] - (bulge * radii[disc] if part.discs.lit else 0.0)
    order = np.lexsort((depth, target))
    first = order[np.diff(target[order], prepend=-1) > 0]
    won = first[depth[first] < depths[target[first]]]
    depths[target[won]] = depth[won]
    colours = part.discs.colours[part.some][disc[won]]
    if part.discs.lit:
        normal = np.column_stack([dx[disc, place][won], -dy[disc, place][won], bulge[won]])
        colours = colours * (0.58 + 0.52 * np.clip(normal @ LIGHT, 0, None))[:, None]
        share = part.mist[disc[won]][:, None]
        colours = colours * (1 - share) + MIST * share
    flat[target[won]] = np.clip(colours, 0, 1)
