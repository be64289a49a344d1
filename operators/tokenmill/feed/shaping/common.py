"""What the transforms share: reading a batch, and errors that name the setting at fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.draw import Draw
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PATH = "feed.transforms"


def problem(text: str) -> JobError:
    """Return the error of a transform whose settings do not fit the tokens, or each other."""
    return JobError(text, path=PATH)


def check_probability(name: str, value: float) -> None:
    """Check that a setting lies in [0, 1].

    Raises:
        JobError: it does not.
    """
    if not 0.0 <= value <= 1.0:
        raise problem(f"{name} must be in [0, 1], got {value}")


def values_of(batch: Batch, name: str) -> Values:
    """Return a batch's entry.

    Raises:
        JobError: there is none of this name; names the nearest one.
    """
    if name not in batch:
        raise problem(f"the batch has no {name!r}; {nearest(name, list(batch))}")
    return batch[name]


def stacked(batch: Batch, name: str) -> Array:
    """Return a batch's entry whose samples all have one shape: ``[B, ...]``.

    Raises:
        JobError: there is none, or its shapes vary.
    """
    values = values_of(batch, name)
    if isinstance(values, list):
        shapes = {array.shape for array in values}
        if len(shapes) != 1:
            raise problem(
                f"samples of {name!r} have {len(shapes)} shapes here: pad them first (`PadTo`), or "
                "feed by buckets of one shape"
            )
        return np.stack(values)
    return values


def each(values: Values, change: Callable[[Array], Array]) -> Values:
    """Apply ``change`` to the stacked samples at once, or to each of a list as a stack of one.

    ``change`` maps ``[B, ...]`` to ``[B, ...]`` and treats all samples alike.
    """
    if isinstance(values, list):
        return [change(array[None])[0] for array in values]
    return change(values)


def rows_of(values: Values, draw: Draw, name: str) -> int:
    """Return the number of samples, which must be those of the draw.

    Raises:
        JobError: it is not; a transform then ran on something else than a step's samples.
    """
    if len(values) != draw.rows:
        raise problem(f"{name!r} has {len(values)} samples and the draw {draw.rows}")
    return draw.rows


def drawn(draw: Draw, shared: bool) -> Draw:
    """Return the draw of each sample, or the one that all samples of the step share."""
    return draw.shared() if shared else draw


def as_ids(array: Array) -> Ids:
    """Return ids as int64, what embeddings and losses take.

    Raises:
        JobError: they are not integers.
    """
    if array.dtype.kind not in "ui":
        raise problem(f"needs ids, got {array.dtype}")
    return array.astype(np.int64)


def with_values(batch: Batch, **new: Values) -> Batch:
    """Return a batch with entries replaced or added; keyword names may hold dots."""
    return {**batch, **new}


def positive(name: str, values: Sequence[int]) -> None:
    """Check that all of ``values`` are positive.

    Raises:
        JobError: one is not.
    """
    if not values or min(values) < 1:
        raise problem(f"{name} must be positive, got {tuple(values)}")
