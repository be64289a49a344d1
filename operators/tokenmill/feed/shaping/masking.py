"""Masked generation: how much is masked, which tokens, and the targets.

MaskGIT (arXiv:2202.04200) masks ``ceil(gamma(r) * n)`` random tokens, r uniform, gamma cosine,
linear, square, cubic or square root. The ratio's density ``2 / pi / sqrt(1 - ratio^2)`` of Muse
(arXiv:2301.00704) is that of ``cosine``; ``arccos`` is the inverse function, as a schedule.
MAGE (arXiv:2211.09117) and MAR (arXiv:2406.11838) draw the ratio from a truncated normal
distribution; MAR masks one end of the random order that it also generates in.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Ids, Mask, drawn, problem, rows_of, stacked
from tokenmill.feed.shaping.orders import inverse, positions

Function = Literal["cosine", "linear", "square", "cubic", "sqrt", "arccos"]
Ratios = npt.NDArray[np.float64]
IGNORE = -100

_GAMMA = {
    "cosine": lambda r: np.cos(np.pi / 2 * r),
    "linear": lambda r: 1 - r,
    "square": lambda r: 1 - r**2,
    "cubic": lambda r: 1 - r**3,
    "sqrt": lambda r: 1 - np.sqrt(r),
    "arccos": lambda r: np.arccos(r) / (np.pi / 2),
}


def mask_ratio(kind: Function, r: Ratios | float) -> Ratios:
    """Return gamma(r), the share that is masked: from 1 at r = 0 down to 0 at r = 1.

    Raises:
        JobError: there is no such function.
    """
    if kind not in _GAMMA:
        raise problem(f"there is no schedule {kind!r}; there are {', '.join(_GAMMA)}")
    return np.asarray(np.clip(_GAMMA[kind](np.asarray(r, np.float64)), 0.0, 1.0))


def mask_counts(ratios: Ratios, n: Ids | int) -> Ids:
    """Return how many of n tokens are masked, at least one: int64 of ratios' shape."""
    counts = np.ceil(np.round(ratios * n, 9)).astype(np.int64)  # 0.3 * 10 is a little over 3
    return np.minimum(np.maximum(counts, 1), n)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Draws ratios as a function of a uniform number."""

    kind: Function = "cosine"

    def __post_init__(self) -> None:
        mask_ratio(self.kind, 0.0)

    def ratios(self, uniform: Ratios) -> Ratios:
        """Return the ratio for each uniform number in [0, 1)."""
        return mask_ratio(self.kind, uniform)


@dataclass(frozen=True, slots=True)
class TruncatedNormal:
    """Draws ratios from a normal distribution cut to [low, high].

    MAR's (arXiv:2406.11838): mean 1, deviation 0.25, from 0.7. MAGE's (arXiv:2211.09117): mean
    0.55, deviation 0.25, from 0.5.
    """

    mean: float = 1.0
    deviation: float = 0.25
    low: float = 0.7
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.deviation <= 0 or not 0 <= self.low < self.high <= 1:
            raise problem(f"{self} is no distribution of ratios")

    def ratios(self, uniform: Ratios) -> Ratios:
        """Return the ratio for each uniform number in [0, 1)."""
        normal = NormalDist(self.mean, self.deviation)
        ends = normal.cdf(self.low), normal.cdf(self.high)
        shares = ends[0] + uniform * (ends[1] - ends[0])
        found = [normal.inv_cdf(min(max(p, 1e-300), 1 - 2**-53)) for p in shares.reshape(-1)]
        return np.asarray(np.clip(np.reshape(found, uniform.shape), self.low, self.high))


MAR = TruncatedNormal()
MAGE = TruncatedNormal(mean=0.55, low=0.5)


@dataclass(frozen=True, slots=True)
class MaskTokens:
    """Masks random positions of a stream ``[*grid, *tail]``, whose grid becomes one axis.

    Papers: MaskGIT (arXiv:2202.04200); of latents, MAR (arXiv:2406.11838).

    Gives ``"<name>.mask"`` (bool[B, n], True where masked), ``"<name>.targets"`` (int64, the ids
    where masked and ``ignore`` elsewhere) and ``"<name>"`` with ``mask_id`` in their place. With
    ``mask_id`` None (latents) nothing is replaced and there are no targets. With ``order`` there is
    ``"<name>.order"``, int64[B, n], whose first tokens are the known ones and last the masked ones.

    Attributes:
        name: the stream.
        mask_id: the id of the mask token, mostly the vocabulary's size.
        schedule: how the ratio is drawn.
        shared: one ratio for all samples of a step (MAR), rather than one for each (MaskGIT).
        order: whether to give the order.
        valid: name of a bool[B, n] entry; where it is False nothing is masked or counted.
        ignore: target of what is not masked.
        tail: axes at the end that are not positions: depth, channels.
    """

    name: str
    mask_id: int | None
    schedule: Schedule | TruncatedNormal = Schedule()
    shared: bool = False
    order: bool = False
    valid: str = ""
    ignore: int = IGNORE
    tail: int = 0

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Mask the stream."""
        _, values = positions(stacked(batch, self.name), self.tail, self.name)
        rows_of(values, draw, self.name)
        valid = self._valid(batch, values.shape[:2])
        order, mask = self.choose(draw, valid)
        new = {**batch, self.name: values, f"{self.name}.mask": mask}
        if self.order:
            new[f"{self.name}.order"] = order
        if self.mask_id is None:
            return new
        wide = mask.reshape(*mask.shape, *(1,) * (values.ndim - 2))
        ids = values.astype(np.int64)
        new[self.name] = np.where(wide, self.mask_id, ids)
        new[f"{self.name}.targets"] = np.where(wide, ids, self.ignore)
        return new

    def choose(self, draw: Draw, valid: Mask) -> tuple[Ids, Mask]:
        """Return an order of all positions and what is masked: int64[B, n] and bool[B, n]."""
        name = f"mask/{self.name}"
        ratios = self.schedule.ratios(drawn(draw, self.shared).uniform(name))
        counts = mask_counts(ratios[:, 0], valid.sum(axis=1))
        words = draw.words(f"{name}/order", valid.shape[1])
        # Invalid positions come first, as if known; the masked ones are the last.
        order = np.lexsort((words, valid), axis=1)
        mask = inverse(order) >= valid.shape[1] - counts[:, None]
        return order, mask & valid

    def _valid(self, batch: Batch, shape: tuple[int, ...]) -> Mask:
        if not self.valid:
            return np.ones(shape, np.bool_)
        valid = stacked(batch, self.valid).astype(np.bool_)
        if valid.shape != shape:
            raise problem(f"{self.valid!r} is {valid.shape} and {self.name!r} {shape}")
        return valid
