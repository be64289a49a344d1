"""What the readers of 3D files share: claims held against limits, polygons, and what they return.

Nothing that a file claims is allocated before it has passed a `Budget` and, where the format lets
one compute it, the number of bytes that the claim needs at least.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.base import DecodeLimits
from tokenmill_schemas.errors import AssetError, Reason

Points = npt.NDArray[np.float64]
Faces = npt.NDArray[np.int64]

NO_FACES: Faces = np.zeros((0, 3), np.int64)
NO_FACES.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a reader found, all transforms baked, not yet judged.

    ``vertices`` is ``float64[V, 3]``, ``faces`` ``int64[F, 3]``, ``normals`` ``float64[V, 3]``;
    ``attributes`` ``float32[V, C]`` makes it a splat of the attributes ``attribute_names``.
    """

    vertices: Points
    faces: Faces
    normals: Points | None = None
    attributes: npt.NDArray[np.float32] | None = None
    attribute_names: tuple[str, ...] = ()
    up_axis: Literal["", "y", "z"] = ""
    units: str = ""


def corrupt(text: str) -> AssetError:
    """Return the error of a file that contradicts its format."""
    return AssetError(Reason.CORRUPT, text)


def truncated(text: str) -> AssetError:
    """Return the error of a file that ends before what it claims."""
    return AssetError(Reason.TRUNCATED, text)


def unsupported(text: str) -> AssetError:
    """Return the error of a file that is well formed and not read here."""
    return AssetError(Reason.UNSUPPORTED, text)


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits that claims of counts are held against."""

    max_faces: int
    max_points: int
    max_bytes: int

    @classmethod
    def of(cls, limits: DecodeLimits) -> Budget:
        """Return the budget of one asset under ``limits``."""
        return cls(limits.max_faces, limits.max_points, limits.max_asset_bytes)

    def points(self, count: int, what: str) -> int:
        """Return ``count`` if so many points or vertices may be allocated.

        Raises:
            AssetError: ``too_many_points``, or ``corrupt`` for a negative count.
        """
        return _within(count, self.max_points, Reason.TOO_MANY_POINTS, f"{what}: {count} points")

    def faces(self, count: int, what: str) -> int:
        """Return ``count`` if so many triangles may be allocated.

        Raises:
            AssetError: ``too_many_faces``, or ``corrupt`` for a negative count.
        """
        return _within(count, self.max_faces, Reason.TOO_MANY_FACES, f"{what}: {count} faces")


def _within(count: int, limit: int, reason: Reason, text: str) -> int:
    if count < 0:
        raise corrupt(f"{text}, which is negative")
    if count > limit:
        raise AssetError(reason, f"{text}; the limit is {limit}")
    return count


def fan(sizes: npt.NDArray[np.int64], corners: npt.NDArray[np.int64]) -> Faces:
    """Return the triangles ``int64[F, 3]`` of polygons, each a fan about its first corner.

    ``sizes`` counts the corners of each polygon and ``corners`` holds their indices, one polygon
    after the other. Triangles come in the polygons' order. Polygons of less than three corners have
    none.
    """
    if len(sizes) and (sizes == 3).all():
        return corners.reshape(-1, 3)
    starts = np.cumsum(sizes) - sizes
    counts = np.maximum(sizes - 2, 0)
    first = np.repeat(starts, counts)
    step = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    faces: Faces = corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]
    return faces


def checked_faces(faces: Faces, vertices: int, what: str) -> Faces:
    """Return ``faces`` if all of them are indices of ``vertices``.

    Raises:
        AssetError: ``corrupt``.
    """
    if len(faces) and (faces.min() < 0 or faces.max() >= vertices):
        bad = faces.min() if faces.min() < 0 else faces.max()
        raise corrupt(f"{what}: a face has vertex {bad}; there are {vertices}")
    return faces


def joined(parts: Iterable[tuple[Points, Faces]]) -> tuple[Points, Faces]:
    """Return vertices and faces of many meshes as one, in order, nothing merged."""
    vertices: list[Points] = []
    faces: list[Faces] = []
    total = 0
    for points, triangles in parts:
        vertices.append(points)
        faces.append(triangles + total)
        total += len(points)
    if not vertices:
        return np.zeros((0, 3)), NO_FACES
    return np.concatenate(vertices), np.concatenate(faces)


def moved(vertices: Points, faces: Faces, matrix: npt.NDArray[np.float64]) -> tuple[Points, Faces]:
    """Return a mesh under the affine map ``float64[4, 4]`` (columns times vectors).

    A map that mirrors turns the faces about, so that outsides stay outside.
    """
    placed = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    mirrors = np.linalg.det(matrix[:3, :3]) < 0
    return placed, faces[:, ::-1] if mirrors else faces


def tokens_in(text: bytes) -> int:
    """Return how many words of a text stand between its white space."""
    blank = np.frombuffer(text, np.uint8) <= ord(" ")
    if not len(blank):
        return 0
    return int((~blank[1:] & blank[:-1]).sum()) + int(not blank[0])


def numbers(text: bytes, dtype: Any, what: str, *, is_file: bool = False) -> npt.NDArray[Any]:
    """Return all numbers of a text in which white space alone parts them.

    Raises:
        AssetError: ``corrupt``: a word in it is no number of ``dtype``; ``truncated`` if that is
            the last one of a whole file (``is_file``), unended.
    """
    values = _parsed(text, dtype)
    if values is None:
        before = text.rsplit(None, 1)[0]
        is_cut = is_file and not text[-1:].isspace() and _parsed(before, dtype) is not None
        raise (truncated if is_cut else corrupt)(f"{what}: a word is no {dtype.__name__}")
    return values


def _parsed(text: bytes, dtype: Any) -> npt.NDArray[Any] | None:
    """Return the numbers, or None if a word is none."""
    try:
        # Older numpy stops, with no more than a warning, at what is no number: the zero is missing.
        values = np.fromstring(text + b" 0", dtype=dtype, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    return values[:-1] if len(values) == tokens_in(text) + 1 else None
