"""The arithmetic of `tokenmill.tokenizers.patch_vq`: patches, tubes, and the codebook of either."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tokenmill.tokenizers.base import Pixels
from tokenmill.tokenizers.locate import PATH
from tokenmill_schemas.errors import CheckpointError

PATCH = 8
VALUES = PATCH * PATCH * 3
#: Frames of a tube.
FRAMES = 4
TUBE_VALUES = FRAMES * VALUES
BASIS_BITS = 12
SYNTHESIS_BITS = 14
#: Integers up to here are exact in float32, and so is every sum that stays below.
EXACT = 2**24
#: Patches per matrix product: 128 rows of 4096 float32 distances (2 MB) stay in the cache.
CHUNK = 128
#: Neighbours of a patch in the order of their features (t, y, x); a tube has two more.
NEIGHBOURS = tuple((0, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
TUBE_NEIGHBOURS = (*NEIGHBOURS, (-1, 0, 0), (1, 0, 0))

IntArray = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]


def to_patches(pixels: Pixels) -> Floats:
    """Return ``float32[B, H/8, W/8, 192]`` of ``uint8[B, H, W, 3]``, minus 128."""
    count, height, width, _ = pixels.shape
    grid = pixels.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(count, *grid.shape[1:4:2], VALUES)
    return patches.astype(np.float32) - np.float32(128)


def from_patches(patches: Pixels) -> Pixels:
    """Return ``uint8[B, H, W, 3]`` of patches ``uint8[B, H/8, W/8, 192]``."""
    count, rows, columns, _ = patches.shape
    grid = patches.reshape(count, rows, columns, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(grid).reshape(count, rows * PATCH, columns * PATCH, 3)


def to_tubes(pixels: Pixels) -> Floats:
    """Return ``float32[B, T/4, H/8, W/8, 768]`` of ``uint8[B, T, H, W, 3]``, minus 128."""
    count, frames, height, width, _ = pixels.shape
    grid = (frames // FRAMES, height // PATCH, width // PATCH)
    split = pixels.reshape(count, grid[0], FRAMES, grid[1], PATCH, grid[2], PATCH, 3)
    tubes = split.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(count, *grid, TUBE_VALUES)
    return tubes.astype(np.float32) - np.float32(128)


def from_tubes(tubes: Pixels) -> Pixels:
    """Return ``uint8[B, T, H, W, 3]`` of tubes ``uint8[B, T/4, H/8, W/8, 768]``."""
    count, *grid, _ = tubes.shape
    split = tubes.reshape(count, *grid, FRAMES, PATCH, PATCH, 3).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    sides = (grid[0] * FRAMES, grid[1] * PATCH, grid[2] * PATCH)
    return np.ascontiguousarray(split).reshape(count, *sides, 3)


def project(patches: Floats, basis: IntArray) -> Floats:
    """Return the integer features ``float32[..., D]`` of patches: ``basis @ p``, half up."""
    sums: Floats = patches @ basis.T.astype(np.float32)
    sums += np.float32(2 ** (BASIS_BITS - 1))
    sums *= np.float32(2.0**-BASIS_BITS)
    np.floor(sums, out=sums)
    return sums


def score_table(codes: IntArray) -> Floats:
    """Return ``float32[D + 1, K]`` that turns features into distances.

    A row of features with a one behind it, times this, is its squared distance to every code, less
    the row's own square.
    """
    wide = codes.astype(np.int64)
    return np.vstack([-2 * wide.T, np.square(wide).sum(1)]).astype(np.float32)


def nearest_codes(features: Floats, table: Floats) -> npt.NDArray[np.int64]:
    """Return the id of the nearest code of each row of ``float32[N, D]``; ties go to the lowest."""
    ids = np.empty(len(features), np.int64)
    rows = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    scores = np.empty((min(CHUNK, len(rows)), table.shape[1]), np.float32)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        out = np.matmul(part, table, out=scores[: len(part)])
        ids[start : start + CHUNK] = out.argmin(axis=1)
    return ids


def with_neighbours(features: npt.NDArray[np.int16], count: int) -> npt.NDArray[np.int16]:
    """Return each patch's features and its neighbours' first ``count``, on the last axis.

    Patches ``[B, h, w, D]`` have the eight around them, tubes ``[B, t, h, w, D]`` those and the one
    before and after. Beyond an edge the patch at the edge is repeated.
    """
    if features.ndim == 4:
        return _beside(features[:, None], count, NEIGHBOURS)[:, 0]
    return _beside(features, count, TUBE_NEIGHBOURS)


def _beside(
    features: npt.NDArray[np.int16], count: int, offsets: tuple[tuple[int, int, int], ...]
) -> npt.NDArray[np.int16]:
    near = np.pad(features[..., :count], ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
    sizes = features.shape[1:4]
    boxes = [
        tuple(slice(1 + step, 1 + step + size) for step, size in zip(offset, sizes, strict=True))
        for offset in offsets
    ]
    return np.concatenate([features, *(near[:, *box] for box in boxes)], axis=-1)


@dataclass(frozen=True, slots=True)
class Codebook:
    """The weights, checked: see the table at the top of this module."""

    basis: IntArray
    codes: IntArray
    synthesis: IntArray
    table: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_exact(self)
        object.__setattr__(self, "table", score_table(self.codes))

    @property
    def is_video(self) -> bool:
        """Whether the codes are of tubes, not of patches."""
        return self.basis.shape[1:] == (TUBE_VALUES,)

    @property
    def neighbour_features(self) -> int:
        """How many features of each neighbour the decoder looks at."""
        neighbours = TUBE_NEIGHBOURS if self.is_video else NEIGHBOURS
        return (len(self.synthesis) - len(self.basis)) // len(neighbours)

    def assign(self, patches: Floats) -> npt.NDArray[np.int64]:
        """Return the ids ``int64[B, h, w]`` of patches ``float32[B, h, w, 192]``; so of tubes."""
        features = project(patches, self.basis)
        ids = nearest_codes(features.reshape(-1, len(self.basis)), self.table)
        return ids.reshape(patches.shape[:-1])

    def synthesize(self, ids: npt.NDArray[Any]) -> Pixels:
        """Return the picture ``uint8[B, 8 h, 8 w, 3]`` of ids ``[B, h, w]``.

        Of ids of tubes ``[B, t, h, w]``, the clip ``uint8[B, 4 t, 8 h, 8 w, 3]``.
        """
        features = with_neighbours(self.codes[ids], self.neighbour_features)
        sums = features.astype(np.float64) @ self.synthesis.astype(np.float64)
        values = np.floor(sums * 2.0**-SYNTHESIS_BITS + 0.5) + 128
        pixels = np.clip(values, 0, 255).astype(np.uint8)
        return from_tubes(pixels) if self.is_video else from_patches(pixels)


def _check_shapes(book: Codebook) -> None:
    width, values = len(book.basis), TUBE_VALUES if book.is_video else VALUES
    neighbours = len(TUBE_NEIGHBOURS if book.is_video else NEIGHBOURS)
    shapes = (book.basis.shape[1:], book.codes.shape[1:], book.synthesis.shape[1:])
    extra = len(book.synthesis) - width
    whole = extra >= 0 and extra % neighbours == 0 and extra // neighbours <= width
    types = {a.dtype for a in (book.basis, book.codes, book.synthesis)}
    if shapes != ((values,), (width,), (values,)) or not whole or types != {np.dtype(np.int16)}:
        raise CheckpointError(
            f"patch_vq wants int16 basis [D, {values}], codes [K, D] and synthesis "
            f"[D + {neighbours} M, {values}]; got {book.basis.shape}, {book.codes.shape}, "
            f"{book.synthesis.shape} of {', '.join(sorted(str(t) for t in types))}",
            path=PATH,
        )


def _check_exact(book: Codebook) -> None:
    """Bound every partial sum of an assignment, whatever its order.

    A projection's partial sums are at most 128 times the basis row's absolute sum. Those of a
    score are at most twice the greatest projection times the code's absolute values, plus the
    code's square.
    """
    rows = np.abs(book.basis.astype(np.int64)).sum(1) * 128
    features = (rows >> BASIS_BITS) + 1
    codes = np.abs(book.codes.astype(np.int64))
    scores = 2 * (codes @ features) + np.square(codes).sum(1)
    if max(rows.max() + 2**BASIS_BITS, scores.max()) >= EXACT:
        raise CheckpointError(
            f"sums of this patch_vq codebook reach {max(rows.max(), scores.max())}; float32 is "
            f"exact below {EXACT} only, so its ids could differ between machines",
            path=PATH,
        )


def load_codebook(path: Path) -> Codebook:
    """Return the codebook of a safetensors file.

    Raises:
        CheckpointError: tensors are missing or wrong, or the file is no safetensors file.
    """
    try:
        tensors = load_file(path)
        return Codebook(tensors["basis"], tensors["codes"], tensors["synthesis"])
    except KeyError as error:
        text = f"{path} has no tensor {error}; it is no patch_vq file"
        raise CheckpointError(text, path=PATH) from error
    except (SafetensorError, OSError) as error:
        text = f"{path} cannot be read as safetensors: {error}"
        raise CheckpointError(text, path=PATH) from error
