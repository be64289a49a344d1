"""Conditions left out at random, for classifier-free guidance, and one of several captions.

Ho and Salimans, arXiv:2207.12598: with a small probability the label becomes the null class, or the
caption empty, so that one network learns both the conditional and the unconditional.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import check_probability, problem, rows_of, stacked

DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class DropCondition:
    """Replaces conditions by their null values, all of one sample's or none (arXiv:2207.12598).

    Gives ``"<first name>.dropped"``, bool[B]. Two transforms with other first names draw apart,
    which is how label and caption are dropped independently.

    Attributes:
        nulls: names and null values: ``(("label", 1000), ("caption", ""))``.
        probability: of dropping.
    """

    nulls: tuple[tuple[str, int | str], ...]
    probability: float = 0.1

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)
        if not self.nulls:
            raise problem("there is no condition to drop")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Drop the conditions."""
        first = self.nulls[0][0]
        rows_of(stacked(batch, first), draw, first)
        dropped = draw.uniform(f"drop/{first}")[:, 0] < self.probability
        new: Batch = {f"{first}.{DROPPED}": dropped}
        for name, null in self.nulls:
            new[name] = self._dropped(batch, name, null, dropped)
        return {**batch, **new}

    def _dropped(
        self,
        batch: Batch,
        name: str,
        null: int | str,
        dropped: np.ndarray[tuple[int], np.dtype[np.bool_]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        values = stacked(batch, name)
        if isinstance(null, str) != (values.dtype == object):
            raise problem(f"{null!r} cannot stand for a {values.dtype} of {name!r}")
        if values.dtype == object:
            out = values.copy()
            out[dropped] = null
            return out
        wide = values.astype(np.int64) if values.dtype.kind in "uib" else values
        return np.where(dropped.reshape(-1, *(1,) * (wide.ndim - 1)), null, wide)


@dataclass(frozen=True, slots=True)
class ChooseCaption:
    """Takes one of several caption columns for each sample, of those that are not empty.

    Stable Diffusion 3 (arXiv:2403.03206) was trained on original and synthetic captions, half of
    each. Where all are empty the caption is "".

    Attributes:
        names: the columns, of text or None.
        into: name of the choice.
        weights: how likely each is; () is alike.
    """

    names: tuple[str, ...]
    into: str = "caption"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.names or (self.weights and len(self.weights) != len(self.names)):
            raise problem(f"{len(self.names)} captions and {len(self.weights)} weights")
        if self.weights and min(self.weights) <= 0:
            raise problem(f"weights must be positive, got {self.weights}")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the chosen caption: object[B]."""
        texts = np.stack([stacked(batch, name) for name in self.names], axis=1)
        rows = rows_of(texts, draw, self.names[0])
        there = np.array([[bool(text) for text in row] for row in texts.tolist()])
        shares = np.where(there, np.array(self.weights or (1.0,) * len(self.names)), 0.0)
        ends = np.cumsum(shares, axis=1)
        at = draw.uniform(f"caption/{self.into}") * ends[:, -1:]
        chosen = np.minimum((ends <= at).sum(axis=1), len(self.names) - 1)
        out = texts[np.arange(rows), chosen]
        out[~there.any(axis=1)] = ""
        return {**batch, self.into: out}
