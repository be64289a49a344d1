"""Rows that can be read by number, as a Ray Data dataset: read tasks over stretches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.data import Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray

__all__ = ["Dataset", "RowDatasource", "RowReader", "Stretch", "read_rows"]

Tensors = npt.NDArray[Any] | list[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some rows: tensors, one a row (a list where their shapes vary), and Arrow columns."""

    tensors: Mapping[str, Tensors]
    columns: Mapping[str, pa.Array]


class RowReader(Protocol):
    """What reads rows by their numbers; small and picklable, for it goes with every task."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row has in memory."""
        ...

    def cuts(self, count: int) -> Sequence[int]:
        """Return where about ``count`` stretches begin, from 0, and last where the rows end."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield the rows from ``start`` to ``stop``, a block's worth at a time."""
        ...


def read_rows(reader: RowReader, *, parallelism: int = -1) -> Dataset:
    """Return a dataset of all rows; nothing is read before it is asked for.

    Args:
        reader: Reads rows inside the tasks.
        parallelism: How many read tasks to make at most; -1 leaves it to Ray.
    """
    blocks = None if parallelism < 0 else parallelism
    source = RowDatasource(reader)
    found: Dataset = ray.data.read_datasource(source, override_num_blocks=blocks)
    return found


class RowDatasource(Datasource):
    """A Ray Data source over a `RowReader`."""

    def __init__(self, reader: RowReader) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        self._reader = reader

    def get_name(self) -> str:
        """Return what Ray calls the read tasks."""
        return "Tokens"

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes all rows have in memory."""
        return self._reader.rows * self._reader.row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return at most ``parallelism`` tasks, which Ray runs where it has room."""
        del data_context
        cuts = self._reader.cuts(parallelism)
        return [
            ReadTask(
                partial(_blocks, self._reader, start, stop),
                BlockMetadata(
                    num_rows=stop - start,
                    size_bytes=(stop - start) * self._reader.row_bytes,
                    input_files=None,
                    exec_stats=None,
                ),
                per_task_row_limit=per_task_row_limit,
            )
            for start, stop in pairwise(cuts)
        ]


def _blocks(reader: RowReader, start: int, stop: int) -> Iterator[pa.Table]:
    for stretch in reader.read(start, stop):
        tensors = {name: _tensor_array(values) for name, values in stretch.tensors.items()}
        yield pa.table({**tensors, **stretch.columns})


def _tensor_array(values: Tensors) -> pa.Array:
    if isinstance(values, np.ndarray):
        return ArrowTensorArray.from_numpy(values)
    return ArrowVariableShapedTensorArray.from_numpy(values)
