"""Shapes of a shard's samples in a few bytes: what the manifest says of streams that vary.

A feed packs and buckets by them without opening a shard. The bytes, for the streams of a spec that
are not fixed, in the order of the spec:

- byte 0: the width of an item in bytes, 2 or 4; 2 where every size is below 2**16;
- then for each such stream, for each row, the size of each of its variable axes, in the order of
  the axes: unsigned integers of that width, little-endian.

No bytes at all mean that nothing is known (a shard of an older writer), that no stream varies or
that there are no rows. They are not compressed: equal shards have equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.tokens import Stream, TokenSpec

Sizes = npt.NDArray[Any]


def variable_axes(stream: Stream) -> tuple[int, ...]:
    """Return which dimensions of a stream's samples vary: places in `Stream.shape`."""
    return tuple(i for i, size in enumerate(stream.shape) if size is None)


def encode_shapes(spec: TokenSpec, shapes: Mapping[str, npt.ArrayLike]) -> bytes:
    """Return the shapes of the rows of a shard as bytes.

    Args:
        spec: The streams.
        shapes: Of each stream that varies, by name, ``integers[rows, dimensions]``: the sizes of
            all dimensions of each row, as ``<stream>.shape`` has them.

    Raises:
        KeyError: a stream that varies is not among ``shapes``.
        ValueError: streams have different numbers of rows, or a size is not in ``[0, 2**32)``.
    """
    streams = [stream for stream in spec.streams if not stream.is_fixed]
    sizes = [_variable(stream, np.asarray(shapes[stream.name])) for stream in streams]
    if len({len(each) for each in sizes}) > 1:
        raise ValueError(f"streams have {[len(each) for each in sizes]} rows")
    flat = np.concatenate([each.ravel() for each in sizes]) if sizes else np.empty(0, np.int64)
    if not flat.size:
        return b""
    if flat.min() < 0 or flat.max() >= 2**32:
        raise ValueError(f"sizes are from {flat.min()} to {flat.max()}")
    width = 2 if flat.max() < 2**16 else 4
    return bytes([width]) + flat.astype(f"<u{width}").tobytes()


def decode_shapes(spec: TokenSpec, encoded: bytes, rows: int) -> dict[str, Sizes]:
    """Return of each stream that varies ``uint16|uint32[rows, variable axes]``; {} if unknown.

    Raises:
        ValueError: these are not the shapes of so many rows of this spec.
    """
    if not encoded:
        return {}
    axes = {s.name: len(variable_axes(s)) for s in spec.streams if not s.is_fixed}
    width = encoded[0]
    if width not in (2, 4) or len(encoded) != 1 + width * rows * sum(axes.values()):
        raise ValueError(
            f"{len(encoded)} bytes of width {width} are not {sum(axes.values())} sizes of each of "
            f"{rows} rows"
        )
    flat = np.frombuffer(encoded, f"<u{width}", offset=1)
    found: dict[str, Sizes] = {}
    start = 0
    for name, count in axes.items():
        found[name] = flat[start : start + rows * count].reshape(rows, count)
        start += rows * count
    return found


def _variable(stream: Stream, shapes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = shapes.reshape(-1, len(stream.shape)).astype(np.int64)
    return found[:, list(variable_axes(stream))]
