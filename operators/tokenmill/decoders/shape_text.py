"""3D files that are lines of text: Wavefront OBJ, Geomview OFF, and points as columns (XYZ, PTS).

Text is read in blocks of whole lines, so that what Python makes of a line lives shortly. Of OBJ the
`Wavefront Advanced Visualizer's appendix B <https://paulbourke.net/dataformats/obj/>`_ is followed
for ``v`` and ``f``; normals, texture coordinates, materials and groups are read past, because
vertices stay as they are in the file: a corner's other indices never split one. Of OFF the Geomview
manual is followed, binary files apart.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.shape_parts import (
    NO_FACES,
    Budget,
    Faces,
    Geometry,
    Points,
    checked_faces,
    corrupt,
    fan,
    numbers,
    truncated,
    unsupported,
)
from tokenmill_schemas.errors import AssetError, Reason

BLOCK_BYTES = 4 * 2**20
#: No vertex and no polygon of any use is as long; memory for the words of a line is bounded so.
MAX_LINE_BYTES = 2**20
#: Lines of OFF that are taken apart at once.
_BATCH = 50_000
_OFF_HEADER = re.compile(rb"(?:\s|#[^\n]*\n)*+((?:ST)?C?N?(4)?(n)?OFF\b[ \t]*(BINARY)?)")
_OFF_COUNTS = 3
_UNIT_TOLERANCE = 0.01
_FREE_FORM = re.compile(rb"^(surf|curv2?)[ \t]", re.MULTILINE)
_COMMENT = re.compile(rb"#[^\n]*")
_AFTER_SLASH = re.compile(rb"/\S*")


def with_newlines(data: bytes) -> bytes:
    """Return a text whose lines end in a line feed; a carriage return before it may stay."""
    return data.replace(b"\r", b"\n") if b"\n" not in data else data


def blocks(data: bytes, start: int = 0) -> Iterator[list[bytes]]:
    """Yield the lines of a text from ``start``, some megabytes at a time, without comments.

    Raises:
        AssetError: ``corrupt``: a line is longer than a megabyte.
    """
    while start < len(data):
        stop = data.find(b"\n", min(start + BLOCK_BYTES, len(data)))
        stop = len(data) if stop < 0 else stop
        block = data[start:stop]
        if b"#" in block:
            block = _COMMENT.sub(b"", block)
        lines = block.split(b"\n")
        longest = max(map(len, lines))
        if longest > MAX_LINE_BYTES:
            raise corrupt(f"a text with a line of {longest} bytes")
        yield lines
        start = stop + 1


def columns(lines: list[bytes], first: int, count: int, what: str) -> Points:
    """Return ``float64[len(lines), count]``: the words ``first`` and on of each line.

    Raises:
        AssetError: ``corrupt``: a line has too few words, or one of them is no number.
    """
    words = [line.split(None, first + count)[first : first + count] for line in lines]
    for line, found in zip(lines, words, strict=True):
        if len(found) < count:
            raise corrupt(f"{what}: {line[:60]!r} has less than {count} numbers")
    return numbers(b" ".join(map(b" ".join, words)), float, what).reshape(-1, count)


@dataclass(slots=True)
class _Obj:
    """What has been read of an OBJ file."""

    budget: Budget
    vertices: list[Points] = field(default_factory=list)
    faces: list[Faces] = field(default_factory=list)
    vertex_count: int = 0
    face_count: int = 0

    def take(self, lines: list[bytes]) -> None:
        """Read the next lines."""
        lines = [line.lstrip() if line[:1] in b" \t" else line for line in lines]
        points = [line for line in lines if line.startswith((b"v ", b"v\t"))]
        polygons = [line for line in lines if line.startswith((b"f ", b"f\t"))]
        self.budget.points(self.vertex_count + len(points), "OBJ")
        if polygons:
            self._take_faces(polygons, lines)
        if points:
            self.vertices.append(columns(points, 1, 3, "OBJ vertex"))
            self.vertex_count += len(points)

    def _take_faces(self, polygons: list[bytes], lines: list[bytes]) -> None:
        corners = [_AFTER_SLASH.sub(b"", line[2:]) for line in polygons]
        sizes = np.array([len(line.split()) for line in corners], np.int64)
        self.face_count += int(np.maximum(sizes - 2, 0).sum())
        self.budget.faces(self.face_count, "OBJ")
        indices = numbers(b" ".join(corners), int, "OBJ face")
        if (indices == 0).any():
            raise corrupt("OBJ face: a vertex index is 0; they count from 1")
        if (indices < 0).any():
            known = np.repeat(self._known_before(lines), sizes)
            indices = np.where(indices < 0, indices + known + 1, indices)
        self.faces.append(fan(sizes, indices - 1))

    def _known_before(self, lines: list[bytes]) -> npt.NDArray[np.int64]:
        """Return how many vertices precede each face line: negative indices count back from it."""
        kinds = np.array([line[:2] in (b"v ", b"v\t") for line in lines])
        is_face = np.array([line[:2] in (b"f ", b"f\t") for line in lines])
        known: npt.NDArray[np.int64] = self.vertex_count + np.cumsum(kinds)
        before: npt.NDArray[np.int64] = known[is_face]
        return before


def _obj_lines(data: bytes) -> bytes:
    """Return the text of an OBJ file, continued lines joined."""
    text = with_newlines(data)
    if b"\\" in text:
        text = text.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    return text


def read_obj(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh of an OBJ file, or its vertices as points where it has no faces.

    Raises:
        AssetError: ``corrupt``, ``unsupported`` (free-form surfaces alone), or a limit.
    """
    text = _obj_lines(data)
    found = _Obj(budget)
    for lines in blocks(text):
        found.take(lines)
    vertices = np.concatenate(found.vertices) if found.vertices else np.zeros((0, 3))
    faces = np.concatenate(found.faces) if found.faces else NO_FACES
    if not len(faces) and _FREE_FORM.search(text):
        raise unsupported("OBJ of free-form curves and surfaces, without polygons")
    return Geometry(vertices, checked_faces(faces, len(vertices), "OBJ"))


def _content(data: bytes, start: int) -> Iterator[bytes]:
    """Yield the lines from ``start`` that say something."""
    for lines in blocks(data, start):
        yield from filter(None, map(bytes.strip, lines))


def read_off(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh of an OFF file of any text flavour (``COFF``, ``NOFF``, ``STOFF``...).

    Raises:
        AssetError: ``truncated``, ``corrupt``, ``unsupported`` (binary, other dimensions), a limit.
    """
    text = with_newlines(data)
    start = _off_body(text)
    lines = _content(text, start)
    counts = numbers(b" ".join([next(lines, b"")]), int, "OFF counts")
    if len(counts) < _OFF_COUNTS - 1:
        raise truncated("OFF without counts") if not len(counts) else corrupt("OFF: one count")
    vertex_count = budget.points(int(counts[0]), "OFF header")
    face_count = budget.faces(int(counts[1]), "OFF header")
    # The shortest vertex is "0 0 0" and a line feed, the shortest face "0" and one.
    if vertex_count * 6 + face_count * 2 > len(text) - start + 1:
        raise truncated(
            f"OFF of {len(data)} bytes claims {vertex_count} points, {face_count} faces"
        )
    points = _off_points(lines, vertex_count, has_faces=face_count > 0)
    faces = [NO_FACES]
    triangles = read = 0
    for batch in _batches(lines, face_count, "faces"):
        read += len(batch)
        faces.append(_off_faces(batch, is_last=read == face_count))
        triangles = budget.faces(triangles + len(faces[-1]), "OFF")
    vertices = np.concatenate([np.zeros((0, 3)), *points])
    return Geometry(vertices, checked_faces(np.concatenate(faces), vertex_count, "OFF"))


def _off_body(text: bytes) -> int:
    header = _OFF_HEADER.match(text)
    if header is None:
        raise corrupt("OFF without its keyword")
    if any(header.group(2, 3, 4)):
        raise unsupported(f"OFF of the kind {header.group(1).decode()!r}")
    return header.end()


def _batches(lines: Iterator[bytes], count: int, what: str) -> Iterator[list[bytes]]:
    """Yield the next ``count`` lines, some thousands at a time."""
    for start in range(0, count, _BATCH):
        batch = list(itertools.islice(lines, min(_BATCH, count - start)))
        if len(batch) < min(_BATCH, count - start):
            raise truncated(f"OFF claims {count} {what} and has {start + len(batch)}")
        yield batch


def _off_points(lines: Iterator[bytes], count: int, *, has_faces: bool) -> list[Points]:
    points = []
    for batch in _batches(lines, count, "points"):
        try:
            points.append(columns(batch, 0, 3, "OFF vertex"))
        except AssetError as error:
            if has_faces and next(lines, None) is None:  # cut in the middle of its last point
                raise truncated(f"OFF ends after its points; {error}") from error
            raise
    return points


def _off_faces(lines: list[bytes], *, is_last: bool) -> Faces:
    words = [line.split() for line in lines]
    sizes = numbers(b" ".join(word[0] for word in words), int, "OFF face")
    corners: list[bytes] = []
    for i, (word, size) in enumerate(zip(words, sizes.tolist(), strict=True)):
        if not 0 <= size < len(word):
            is_cut = is_last and size > 0 and i == len(words) - 1
            raise (truncated if is_cut else corrupt)(
                f"OFF: a face of {size} corners names {len(word) - 1}"
            )
        corners += word[1 : size + 1]
    return fan(sizes, numbers(b" ".join(corners), int, "OFF face"))


def read_xyz(data: bytes, budget: Budget) -> Geometry:
    """Return the points of a text of columns, parted by white space, commas or semicolons.

    The first three columns are x, y, z. Six columns whose last three are unit vectors (to one per
    cent) are taken for points and normals, which the format does not say; other columns are passed
    over. A first line of one number is the count of points, as PTS files have it.

    Raises:
        AssetError: ``truncated``, ``corrupt``, or a limit.
    """
    text = with_newlines(data)
    if b"," in text or b";" in text:
        text = text.translate(bytes.maketrans(b",;", b"  "))
    lines = _content(text, 0)
    first = next(lines, b"")
    if not first:
        raise AssetError(Reason.NO_GEOMETRY, "XYZ without a line of numbers")
    claimed = -1
    if len(first.split()) == 1:
        claimed = budget.points(int(numbers(first, int, "XYZ count")[0]), "XYZ header")
        first = next(lines, b"")
    width = len(first.split())
    values = np.concatenate(list(_rows(first, lines, width, budget)))
    if claimed > len(values):
        raise truncated(f"XYZ claims {claimed} points and has {len(values)}")
    return Geometry(values[:, :3].copy(), NO_FACES, _unit_normals(values))


def _rows(
    first: bytes, lines: Iterator[bytes], width: int, budget: Budget
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield ``float64[n, width]`` of lines that all have ``width`` numbers."""
    if width < 3:
        raise corrupt(f"XYZ: {first[:60]!r} has less than 3 numbers")
    total, batch, size = 1, [first], 0
    for line in lines:
        batch.append(line)
        size += len(line)
        total += 1
        if size > BLOCK_BYTES:
            budget.points(total, "XYZ")
            yield columns(batch, 0, width, "XYZ point")
            batch, size = [], 0
    budget.points(total, "XYZ")
    yield columns(batch, 0, width, "XYZ point") if batch else np.zeros((0, width))


def _unit_normals(values: npt.NDArray[np.float64]) -> Points | None:
    if values.shape[1] != 6:
        return None
    lengths = np.linalg.norm(values[:, 3:], axis=1)
    return values[:, 3:].copy() if (np.abs(lengths - 1) <= _UNIT_TOLERANCE).all() else None
