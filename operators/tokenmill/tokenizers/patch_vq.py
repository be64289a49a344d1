"""A small vector quantizer of 8x8 RGB patches: exact, quick on a CPU, and shipped with its weights.

A patch is projected on a few integer basis vectors (low DCT frequencies of luma and chroma), the
nearest code of a table is its id. Vector quantization of picture blocks is as in Gersho and Gray,
"Vector Quantization and Signal Compression" (1992); the decoder is a linear estimate of a patch
from its own code and those of its eight neighbours, which takes most of the block edges away.

Ids are the same on every machine by construction. Basis, codes and projections are integers, and
all sums of an assignment stay below 2^24 in any order of summation (checked when weights are
loaded), so float32 matrix products are exact whatever the BLAS does. Distances are then integers
too, and of equally near codes the lowest id wins. The decoder sums integers below 2^53 in float64.

Weights (safetensors, made by ``python -m tokenmill_pipelines.fit.patch_vq``):

========== =========== =========================================================================
basis      int16 D,192 projection of a patch (row, column, channel; minus 128), times 2^12
codes      int16 K,D   code book in the projected space
synthesis  int16 F,192 from a patch's code and its neighbours' first M features, times 2^14
========== =========== =========================================================================

with ``F = D + 8 M``; the neighbours stand in raster order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.locate import PATH, file_digest, local_file
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

PATCH = 8
VALUES = PATCH * PATCH * 3
BASIS_BITS = 12
SYNTHESIS_BITS = 14
#: Integers up to here are exact in float32, and so is every sum that stays below.
EXACT = 2**24
#: Patches per matrix product: 128 rows of 4096 float32 distances (2 MB) stay in the cache.
CHUNK = 128
WEIGHTS = Path(__file__).parent / "weights" / "patch_vq.safetensors"

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))

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
    """Return ``[B, h, w, D + 8 count]``: each patch's features and its neighbours' first ones.

    Beyond an edge the patch at the edge is repeated.
    """
    rows, columns = features.shape[1:3]
    near = np.pad(features[..., :count], ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    shifted = [near[:, 1 + y : 1 + y + rows, 1 + x : 1 + x + columns] for y, x in NEIGHBOURS]
    return np.concatenate([features, *shifted], axis=-1)


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
    def neighbour_features(self) -> int:
        """How many features of each neighbour the decoder looks at."""
        return (len(self.synthesis) - len(self.basis)) // len(NEIGHBOURS)

    def assign(self, patches: Floats) -> npt.NDArray[np.int64]:
        """Return the ids ``int64[B, h, w]`` of patches ``float32[B, h, w, 192]``."""
        features = project(patches, self.basis)
        ids = nearest_codes(features.reshape(-1, len(self.basis)), self.table)
        return ids.reshape(patches.shape[:-1])

    def synthesize(self, ids: npt.NDArray[Any]) -> Pixels:
        """Return the picture ``uint8[B, 8 h, 8 w, 3]`` of ids ``[B, h, w]``."""
        features = with_neighbours(self.codes[ids], self.neighbour_features)
        sums = features.astype(np.float64) @ self.synthesis.astype(np.float64)
        values = np.floor(sums * 2.0**-SYNTHESIS_BITS + 0.5) + 128
        return from_patches(np.clip(values, 0, 255).astype(np.uint8))


def _check_shapes(book: Codebook) -> None:
    width = len(book.basis)
    shapes = (book.basis.shape[1:], book.codes.shape[1:], book.synthesis.shape[1:])
    extra = len(book.synthesis) - width
    whole = extra >= 0 and extra % len(NEIGHBOURS) == 0 and extra // len(NEIGHBOURS) <= width
    types = {a.dtype for a in (book.basis, book.codes, book.synthesis)}
    if shapes != ((VALUES,), (width,), (VALUES,)) or not whole or types != {np.dtype(np.int16)}:
        raise CheckpointError(
            f"patch_vq wants int16 basis [D, {VALUES}], codes [K, D] and synthesis [D + 8 M, "
            f"{VALUES}]; got {book.basis.shape}, {book.codes.shape}, {book.synthesis.shape} "
            f"of {', '.join(sorted(str(t) for t in types))}",
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


class PatchEncoder:
    """The live quantizer: numpy on one CPU; the device it is asked for does not matter."""

    def __init__(self, book: Codebook) -> None:
        self._book = book

    def preprocess(self, pixels: Pixels) -> Floats:
        """Return patches ``float32[B, H/8, W/8, 192]`` of ``uint8[B, H, W, 3]``, minus 128."""
        _check_size((pixels.shape[1], pixels.shape[2]))
        return to_patches(pixels)

    def encode(self, inputs: Floats) -> Tokens:
        """Return ``image``: the ids ``[B, H/8, W/8]``."""
        return {"image": self._book.assign(inputs).astype(_dtype(len(self._book.codes)))}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Return ``uint8[B, H, W, 3]`` of the ids in ``image``."""
        return self._book.synthesize(tokens["image"])

    def close(self) -> None:
        """Nothing is held but memory."""


def _dtype(codes: int) -> str:
    return _spec(codes).streams[0].storage_dtype


def _spec(codes: int) -> TokenSpec:
    return TokenSpec((Stream("image", "index", (Axis("h"), Axis("w")), vocab_sizes=(codes,)),))


def _check_size(size: tuple[int, int]) -> None:
    if size[0] % PATCH or size[1] % PATCH or min(size) < PATCH:
        raise JobError(
            f"patch_vq takes views whose sides are multiples of {PATCH}, got {size[0]}x{size[1]}",
            path="view.size",
        )


@dataclass(frozen=True, slots=True)
class PatchVQ:
    """The description of a patch quantizer; ``checkpoint`` "" is the shipped codebook."""

    checkpoint: str = ""

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    @property
    def identity(self) -> dict[str, Any]:
        """The algorithm's version and the weights' sha256."""
        return {"kind": "patch_vq", "algorithm": 1, "weights_sha256": file_digest(self._path())}

    @property
    def resources(self) -> Resources:
        """A CPU and little memory; no GPU."""
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=512 * 2**20, batch_size=32)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 256 pixels."""
        return {"kind": "center_crop", "size": 256, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream ``image`` of axes h and w, an id per 8x8 pixels.

        Raises:
            JobError: a side is not a multiple of 8.
            CheckpointError: see `load_codebook`.
        """
        spec = _spec(len(load_codebook(self._path()).codes))
        if size is None:
            return spec
        _check_size(size)
        return spec.sized(h=size[0] // PATCH, w=size[1] // PATCH)

    def load(self, device: str = "cpu") -> PatchEncoder:
        """Read and check the weights. The device is not used: a CPU core does 120 pictures/s.

        Raises:
            CheckpointError: see `load_codebook`.
        """
        del device
        return PatchEncoder(load_codebook(self._path()))

    def _path(self) -> Path:
        return local_file(self.checkpoint) if self.checkpoint else WEIGHTS


PLUGIN = PatchVQ
