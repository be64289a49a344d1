"""A small vector quantizer of 8x8x8 blocks of occupancy: exact, quick, shipped with its weights.

A block of 512 cells becomes the id of the code that differs in the fewest cells (Hamming distance);
the code itself is what the id decodes to. It is the vector quantization of Gersho and Gray, "Vector
Quantization and Signal Compression" (1992), with codes fitted by majority, as k-modes does (Huang,
1998). Id 0 is always the empty block, so a sparse object is mostly zeros.

Ids are the same on every machine: distances are sums of integers, and of equally near codes the
lowest id wins. Blocks are mostly empty or mostly full, so products of a sparse with a dense matrix
find them in less than half of the time that a dense product takes.

Weights (safetensors, made by ``python -m tokenmill_pipelines.fit.codebooks.voxel_vq``):

===== =========== =============================================================================
codes uint8 K, 64 a code a row, a cell a bit: cell (x, y, z) is bit ``z`` of byte ``8 x + y``,
                  the lowest first; row 0 is empty
===== =========== =============================================================================
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

from tokenmill.tokenizers.base import Tokens
from tokenmill.tokenizers.locate import PATH, file_digest, local_file
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

BLOCK = 8
CELLS = BLOCK**3
BYTES = CELLS // 8
#: Blocks per matrix product: 128 rows of 4096 int16 distances (1 MB) stay in the cache.
CHUNK = 128
WEIGHTS = Path(__file__).parent / "weights" / "voxel_vq.safetensors"

Volumes = npt.NDArray[np.bool_]
Packed = npt.NDArray[np.uint8]
Shorts = npt.NDArray[np.int16]
Ints = npt.NDArray[np.int64]


def to_blocks(volumes: Volumes) -> Packed:
    """Return the blocks ``uint8[B, X/8, Y/8, Z/8, 64]`` of ``bool[B, X, Y, Z]``, a cell a bit."""
    rows = np.packbits(np.ascontiguousarray(volumes), axis=-1, bitorder="little")
    count, x, y, z = rows.shape
    grid = rows.reshape(count, x // BLOCK, BLOCK, y // BLOCK, BLOCK, z).transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(grid).reshape(count, x // BLOCK, y // BLOCK, z, BYTES)


def from_blocks(blocks: Packed) -> Volumes:
    """Return ``bool[B, X, Y, Z]`` of blocks ``uint8[B, X/8, Y/8, Z/8, 64]``."""
    count, x, y, z, _ = blocks.shape
    rows = blocks.reshape(count, x, y, z, BLOCK, BLOCK).transpose(0, 1, 4, 2, 5, 3)
    packed = np.ascontiguousarray(rows).reshape(count, x * BLOCK, y * BLOCK, z)
    return np.unpackbits(packed, axis=-1, bitorder="little").view(np.bool_)


def unpack(rows: Packed) -> npt.NDArray[np.uint8]:
    """Return the cells ``uint8[N, 512]``, 0 or 1, of ``uint8[N, 64]``."""
    return np.unpackbits(rows, axis=-1, bitorder="little")


def score_table(codes: Packed) -> Shorts:
    """Return ``int16[513, K]`` that turns cells into distances.

    A row of cells with a one behind it, times this, is its Hamming distance to every code, less
    the row's own number of occupied cells: ``|c - a|^2 - |a| = |c| - 2 c . a``.
    """
    cells = unpack(codes).astype(np.int16)
    table = np.vstack([-2 * cells.T, cells.sum(axis=1, dtype=np.int16)])
    return np.ascontiguousarray(table)  # a product would copy it anew each time


def nearest_codes(rows: Packed, table: Shorts) -> tuple[Ints, Ints]:
    """Return the nearest code of each row of ``uint8[N, 64]`` and its distance in cells.

    Ties go to the lowest id.
    """
    ids, away = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        scores, occupied = _scores(rows[part], table)
        ids[part] = scores.argmin(axis=1)
        away[part] = scores[np.arange(len(scores)), ids[part]] + occupied
    return ids, away


def _scores(rows: Packed, table: Shorts) -> tuple[Shorts, Ints]:
    """Return ``int16[N, K]``, see `score_table`, and how many cells are occupied in each row.

    A row that is mostly full is scored by its empty cells e: since ``c . a = |c| - c . e``, its
    scores are those of e with the other sign.
    """
    from scipy import sparse

    cells = unpack(rows)
    occupied = cells.sum(axis=1, dtype=np.int64)
    full = occupied > CELLS // 2
    cells[full] ^= 1
    signed = np.ones((len(rows), CELLS + 1), np.int16)
    signed[:, :CELLS] = cells
    signed[full] *= -1
    scores: Shorts = sparse.csr_matrix(signed) @ table
    return scores, occupied


@dataclass(frozen=True, slots=True)
class Codebook:
    """The weights, checked: see the table at the top of this module."""

    codes: Packed
    table: Shorts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2 or self.codes.shape[1] != BYTES:
            raise CheckpointError(
                f"voxel_vq wants uint8 codes [K, {BYTES}], got {self.codes.dtype} of "
                f"{self.codes.shape}",
                path=PATH,
            )
        if not len(self.codes) or self.codes[0].any():
            raise CheckpointError("the first code of voxel_vq must be the empty block", path=PATH)
        object.__setattr__(self, "table", score_table(self.codes))

    def assign(self, blocks: Packed) -> Ints:
        """Return the ids ``int64[...]`` of blocks ``uint8[..., 64]``.

        Empty blocks, most of a surface's, need no search, and equal ones only one.
        """
        rows = blocks.reshape(-1, BYTES)
        ids = np.zeros(len(rows), np.int64)
        occupied = np.flatnonzero(rows.any(axis=1))
        whole = np.ascontiguousarray(rows[occupied]).view(np.dtype((np.void, BYTES)))[:, 0]
        _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
        ids[occupied] = nearest_codes(rows[occupied[first]], self.table)[0][inverse]
        return ids.reshape(blocks.shape[:-1])


def load_codebook(path: Path) -> Codebook:
    """Return the codebook of a safetensors file.

    Raises:
        CheckpointError: the tensor is missing or wrong, or the file is no safetensors file.
    """
    try:
        return Codebook(load_file(path)["codes"])
    except KeyError as error:
        text = f"{path} has no tensor {error}; it is no voxel_vq file"
        raise CheckpointError(text, path=PATH) from error
    except (SafetensorError, OSError) as error:
        text = f"{path} cannot be read as safetensors: {error}"
        raise CheckpointError(text, path=PATH) from error


class VoxelEncoder:
    """The live quantizer: numpy on one CPU; the device it is asked for does not matter."""

    def __init__(self, book: Codebook) -> None:
        self._book = book
        self._dtype = _spec(len(book.codes)).streams[0].storage_dtype

    def preprocess(self, volumes: Volumes) -> Packed:
        """Return blocks ``uint8[B, X/8, Y/8, Z/8, 64]`` of ``bool[B, X, Y, Z]``, a cell a bit."""
        _check_sides(volumes.shape[1:])
        return to_blocks(volumes)

    def encode(self, inputs: Packed) -> Tokens:
        """Return ``shape``: the ids ``[B, X/8, Y/8, Z/8]``."""
        return {"shape": self._book.assign(inputs).astype(self._dtype)}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Volumes:
        """Return ``bool[B, X, Y, Z]`` of the ids in ``shape``."""
        return from_blocks(self._book.codes[tokens["shape"]])

    def codebook(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``shape``: the codes ``float32[K, 512]``, 1 for an occupied cell of x, y, z."""
        cells = from_blocks(self._book.codes[:, None, None, None])
        return {"shape": cells.reshape(len(cells), -1).astype(np.float32)}

    def close(self) -> None:
        """Nothing is held but memory."""


def _spec(codes: int) -> TokenSpec:
    axes = tuple(Axis(name) for name in "xyz")
    return TokenSpec((Stream("shape", "index", axes, vocab_sizes=(codes,)),))


def _check_sides(shape: tuple[int | None, ...]) -> None:
    known = [side for side in shape if side is not None]
    if len(shape) != 3 or any(side % BLOCK or side < BLOCK for side in known):
        raise JobError(
            f"voxel_vq takes volumes whose sides are multiples of {BLOCK}, "
            f"got {' x '.join(map(str, shape))}",
            path="view.resolution",
        )


@dataclass(frozen=True, slots=True)
class VoxelVQ:
    """The description of a block quantizer; ``checkpoint`` "" is the shipped codebook."""

    checkpoint: str = ""

    takes: ClassVar[tuple[ViewKind, ...]] = ("voxels",)

    @property
    def identity(self) -> dict[str, Any]:
        """The algorithm's version and the weights' sha256."""
        return {"kind": "voxel_vq", "algorithm": 1, "weights_sha256": file_digest(self._path())}

    @property
    def resources(self) -> Resources:
        """A CPU and little memory; no GPU."""
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=512 * 2**20, batch_size=32)

    @property
    def default_view(self) -> dict[str, Any]:
        """The surface in 64 cells a side, the longest side filling the cube, z up."""
        return {"kind": "voxels", "resolution": 64, "normalise": "longest_side", "up": "z"}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream ``shape`` of axes x, y and z, an id per 8x8x8 cells.

        Raises:
            JobError: a side is not a multiple of 8.
            CheckpointError: see `load_codebook`.
        """
        spec = _spec(len(load_codebook(self._path()).codes))
        if shape is None:
            return spec
        _check_sides(tuple(shape))
        sides = zip("xyz", shape, strict=True)
        return spec.sized(**{name: side // BLOCK for name, side in sides if side is not None})

    def load(self, device: str = "cpu") -> VoxelEncoder:
        """Read and check the weights. The device is not used.

        Raises:
            CheckpointError: see `load_codebook`.
        """
        del device
        return VoxelEncoder(load_codebook(self._path()))

    def _path(self) -> Path:
        return local_file(self.checkpoint) if self.checkpoint else WEIGHTS


PLUGIN = VoxelVQ
