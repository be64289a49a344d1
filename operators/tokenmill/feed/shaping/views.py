"""One of several stored views, drawn anew every step.

LlamaGen (arXiv:2406.06525) stores ten crops of an image, GigaTok and Semanticist up to twenty; MAR
and VA-VAE an image and its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Ids, problem, rows_of, values_of


@dataclass(frozen=True, slots=True)
class OneView:
    """Takes one view of streams whose first axis is views: ``[B, V, ...]`` becomes ``[B, ...]``.

    All ``names`` take the same one, so aligned streams stay together. ``"<first name>.view"`` is
    int64[B]. In a store with a row for each view nothing is to be done here: each is a sample.
    LlamaGen (arXiv:2406.06525) draws among ten crops so.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise problem("a choice of views needs a stream")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the streams by one view of each.

        Raises:
            JobError: they have different numbers of views, or none.
        """
        columns = {name: values_of(batch, name) for name in self.names}
        counts = np.array([[len(one) for one in column] for column in columns.values()])
        rows_of(next(iter(columns.values())), draw, self.names[0])
        if (counts != counts[0]).any() or (counts == 0).any():
            raise problem(f"{list(self.names)} have different numbers of views, or none")
        high = draw.uniform(f"view/{self.names[0]}")[:, 0] * counts[0]
        view = np.minimum(high.astype(np.int64), counts[0] - 1)
        taken = {name: _taken(column, view) for name, column in columns.items()}
        return {**batch, **taken, f"{self.names[0]}.view": view}


def _taken(values: Values, view: Ids) -> Values:
    if isinstance(values, list):
        return [one[at] for one, at in zip(values, view.tolist(), strict=True)]
    return values[np.arange(len(values)), view]
