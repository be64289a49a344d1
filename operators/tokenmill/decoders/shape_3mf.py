"""3MF: objects, components and build items of the core specification, in the file's own unit.

3D Manufacturing Format, Core Specification 1.3, and the ``path`` of the Production Extension. The
XML is read as a stream and declares no document type, so nothing in it can grow; the parts of the
archive are held against the limit of bytes by their unpacked sizes; an object's instances are
counted before any is made.
"""

from __future__ import annotations

import io
import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.shape_parts import (
    Budget,
    Faces,
    Geometry,
    Points,
    checked_faces,
    corrupt,
    joined,
    moved,
    truncated,
    unsupported,
)
from tokenmill_schemas.errors import AssetError, Reason

Matrix = npt.NDArray[np.float64]
#: An object's name: the part of the archive it lies in, and its id there.
Key = tuple[str, str]

_UNITS = {
    "micron": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m", "inch": "in",
    "foot": "ft",
}  # fmt: skip
_MODEL_TYPE = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
_RELATIONS = "_rels/.rels"
_MAX_DEPTH = 64
_MAX_INSTANCES = 100_000
_BLOCK_BYTES = 2**18


@dataclass(slots=True)
class _Object:
    """One object: a mesh, or parts made of others."""

    vertices: array[float] = field(default_factory=lambda: array("d"))
    faces: array[int] = field(default_factory=lambda: array("q"))
    parts: list[tuple[Key, Matrix]] = field(default_factory=list)

    def mesh(self) -> tuple[Points, Faces]:
        """Return its vertices and faces."""
        vertices = np.frombuffer(self.vertices, np.float64).reshape(-1, 3)
        faces = np.frombuffer(self.faces, np.int64).reshape(-1, 3)
        return vertices, checked_faces(faces, len(vertices), "3MF")


@dataclass(slots=True)
class _Model:
    """All objects of the archive, and the build items of its root part."""

    budget: Budget
    objects: dict[Key, _Object] = field(default_factory=dict)
    items: list[tuple[Key, Matrix]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    known_paths: set[str] = field(default_factory=set)
    unit: str = "mm"

    def name(self, path: str) -> None:
        """Note that a part is wanted."""
        if path not in self.known_paths:
            self.known_paths.add(path)
            self.paths.append(path)


class _Part:
    """Takes one model part's elements as the XML parser meets them."""

    def __init__(self, model: _Model, path: str, *, is_root: bool) -> None:
        self._model, self._path, self._is_root = model, path, is_root
        self._object = _Object()
        self._take = {
            "model": self._start,
            "object": self._open,
            "vertex": self._vertex,
            "triangle": self._triangle,
            "component": self._component,
            "item": self._item,
        }

    def read(self, stream: IO[bytes]) -> None:
        """Read a part to its end."""
        parser = expat.ParserCreate(namespace_separator="}")
        parser.StartElementHandler = self._element
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.buffer_text = True
        while block := stream.read(_BLOCK_BYTES):
            parser.Parse(block)
            self._check()
        parser.Parse(b"", True)
        self._check()

    def _check(self) -> None:
        self._model.budget.points(len(self._object.vertices) // 3, "3MF")
        self._model.budget.faces(len(self._object.faces) // 3, "3MF")

    def _element(self, name: str, attributes: dict[str, str]) -> None:
        take = self._take.get(name.rpartition("}")[2])
        if take is not None:
            take(attributes)

    def _start(self, attributes: dict[str, str]) -> None:
        unit = attributes.get("unit", "millimeter")
        if unit not in _UNITS:
            raise corrupt(f"3MF of the unit {unit[:40]!r}")
        if self._is_root:
            self._model.unit = _UNITS[unit]

    def _open(self, attributes: dict[str, str]) -> None:
        self._check()
        key = self._path, attributes["id"]
        if key in self._model.objects:
            raise corrupt(f"3MF: object {key[1][:40]!r} is defined twice in {self._path}")
        self._object = self._model.objects[key] = _Object()

    def _vertex(self, attributes: dict[str, str]) -> None:
        self._object.vertices.extend(float(attributes[axis]) for axis in ("x", "y", "z"))

    def _triangle(self, attributes: dict[str, str]) -> None:
        self._object.faces.extend(int(attributes[corner]) for corner in ("v1", "v2", "v3"))

    def _component(self, attributes: dict[str, str]) -> None:
        self._object.parts.append(self._reference(attributes))

    def _item(self, attributes: dict[str, str]) -> None:
        if self._is_root:
            self._model.items.append(self._reference(attributes))

    def _reference(self, attributes: dict[str, str]) -> tuple[Key, Matrix]:
        named = (v.strip("/") for k, v in attributes.items() if k.rpartition("}")[2] == "path")
        path = next(named, self._path)
        self._model.name(path)
        return (path, attributes["objectid"]), _matrix(attributes.get("transform", ""))


def _refuse_doctype(*_: object) -> None:
    raise corrupt("3MF: its XML declares a document type")


def _matrix(text: str) -> Matrix:
    """Return ``float64[4, 4]`` of the twelve numbers of a transform, rows times vectors."""
    matrix = np.eye(4)
    if text.strip():
        matrix[:3] = np.array([float(word) for word in text.split()]).reshape(4, 3).T
    return matrix


def read_3mf(data: bytes, budget: Budget) -> Geometry:
    """Return what a 3MF archive builds, as one mesh; z up.

    Raises:
        AssetError: ``truncated``, ``corrupt`` (objects that contain themselves...), ``unsupported``
            (encrypted), ``too_many_bytes`` (unpacked), or a limit.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise truncated(f"3MF: {error}") from error
    with archive:
        model = _read_model(archive, budget)
    totals = _totals(model)
    budget.points(totals[0], "3MF")
    budget.faces(totals[1], "3MF")
    if totals[2] > _MAX_INSTANCES:
        text = f"3MF of {totals[2]} instances; the limit is {_MAX_INSTANCES}"
        raise AssetError(Reason.TOO_MANY_FACES, text)
    vertices, faces = joined(_instances(model, model.items))
    return Geometry(vertices, faces, up_axis="z", units=model.unit)


def _read_model(archive: zipfile.ZipFile, budget: Budget) -> _Model:
    names = {name.strip("/"): name for name in archive.namelist()}
    root = _root_part(archive, names)
    model = _Model(budget)
    model.name(root)
    unpacked = 0
    for path in model.paths:  # grows as parts name others
        if path not in names:
            raise corrupt(f"3MF without its part {path[:80]!r}")
        info = archive.getinfo(names[path])
        unpacked += info.file_size
        if unpacked > budget.max_bytes:
            text = f"3MF of {unpacked} bytes unpacked; the limit is {budget.max_bytes}"
            raise AssetError(Reason.TOO_MANY_BYTES, text)
        if info.flag_bits & 1:
            raise unsupported("3MF: encrypted")
        with archive.open(info) as stream:
            _Part(model, path, is_root=path == root).read(stream)
    return model


def _root_part(archive: zipfile.ZipFile, names: dict[str, str]) -> str:
    """Return the part that the archive's relations call its model; else the usual one."""
    targets: list[str] = []

    def element(_: str, attributes: dict[str, str]) -> None:
        if attributes.get("Type") == _MODEL_TYPE:
            targets.append(attributes.get("Target", "").strip("/"))

    if _RELATIONS in names and archive.getinfo(_RELATIONS).file_size <= _BLOCK_BYTES:
        parser = expat.ParserCreate(namespace_separator="}")
        parser.StartElementHandler = element
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.Parse(archive.read(_RELATIONS), True)
    usual = [name for name in names if name.lower() == "3d/3dmodel.model"]
    found = [name for name in (*targets, *usual) if name in names]
    if not found:
        raise corrupt("3MF without a model part")
    return found[0]


def _totals(model: _Model) -> tuple[int, int, int]:
    """Return the vertices, faces and instances of all build items, each counted as often as made.

    Raises:
        AssetError: ``corrupt``: an object is unknown, contains itself, or is nested too deeply.
    """
    known: dict[Key, tuple[int, int, int]] = {}

    def total(key: Key, above: tuple[Key, ...]) -> tuple[int, int, int]:
        if key in above or len(above) > _MAX_DEPTH:
            raise corrupt(f"3MF: object {key[1][:40]!r} contains itself or is nested too deeply")
        if key not in known:
            each = model.objects.get(key)
            if each is None:
                raise corrupt(f"3MF: there is no object {key[1][:40]!r} in {key[0][:80]}")
            parts = [total(part, (*above, key)) for part, _ in each.parts]
            own = (len(each.vertices) // 3, len(each.faces) // 3, 1)
            known[key] = _sum([own, *parts])
        return known[key]

    return _sum([total(key, ()) for key, _ in model.items])


def _sum(counts: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    vertices, faces, instances = (sum(column) for column in zip(*counts, (0, 0, 0), strict=True))
    return vertices, faces, instances


def _instances(
    model: _Model, references: list[tuple[Key, Matrix]]
) -> Iterator[tuple[Points, Faces]]:
    """Yield every instance's mesh under its transforms, in the file's order."""
    pending = list(reversed(references))
    while pending:
        key, matrix = pending.pop()
        each = model.objects[key]
        yield moved(*each.mesh(), matrix)
        pending += [(part, matrix @ local) for part, local in reversed(each.parts)]
