"""3D objects: GLB, glTF, OBJ, PLY, STL, OFF, 3MF, XYZ, LAS and STEP, and Gaussian splats in PLY.

The readers are this package's own, in numpy, because a corpus needs three things that trimesh 5.2,
the oracle of their tests, does not give. Claims are judged before anything of their size is
allocated. Vertices stay as they are in the file: trimesh splits an OBJ's vertices at seams of its
texture, drops unused ones and reorders its materials. And what cannot be read is refused: trimesh
gives sparse glTF accessors as zeros and quantised ones unscaled, and joins parts of a 3MF archive
that have one id.

Nothing but the asset's own bytes is read: textures are skipped, and a glTF whose buffers lie in
other files is ``unsupported``.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal
from xml.parsers import expat

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import DecodeLimits, Shape
from tokenmill.decoders.ply import read_ply
from tokenmill.decoders.reading import read_within
from tokenmill.decoders.shape_3mf import read_3mf
from tokenmill.decoders.shape_gltf import read_gltf
from tokenmill.decoders.shape_optional import LIBRARIES, read_las, read_step, version
from tokenmill.decoders.shape_parts import Budget, Geometry, corrupt, truncated, unsupported
from tokenmill.decoders.shape_sniff import sniff
from tokenmill.decoders.shape_stl import read_stl
from tokenmill.decoders.shape_text import read_obj, read_off, read_xyz
from tokenmill_schemas.arrow import SHAPE_FACT_FIELDS
from tokenmill_schemas.asset import AssetRef, Modality
from tokenmill_schemas.errors import AssetError, Reason

Content = Literal["mesh", "points", "gaussians"]
#: What reading bytes that contradict their format raises. `MemoryError` is not among them: it is
#: the machine's fault, and the asset may decode elsewhere.
_BAD_BYTES = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, EOFError,
    NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile, expat.ExpatError,
)  # fmt: skip
#: Formats that are lines alone, without claims: a cut one can but end within a line.
_LINES = ("OBJ", "XYZ")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_READERS: dict[str, Callable[[bytes, Budget], Geometry]] = {
    "GLB": read_gltf,
    "glTF": read_gltf,
    "OBJ": read_obj,
    "PLY": read_ply,
    "STL": read_stl,
    "OFF": read_off,
    "3MF": read_3mf,
    "XYZ": read_xyz,
    "LAS": read_las,
}


@dataclass(frozen=True, slots=True)
class ShapeDecoder:
    """Decodes one 3D object; faces are triangles, polygons are cut as fans about a first corner.

    Attributes:
        limits: what a file may weigh and claim before it is read and decoded.
        step_tolerance_mm: greatest distance between a STEP surface and its triangles.
        step_angle_rad: greatest angle between neighbouring triangles of a STEP surface.
    """

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    step_tolerance_mm: float = 0.01
    step_angle_rad: float = 0.5

    modalities: ClassVar[tuple[Modality, ...]] = ("shape",)

    def __post_init__(self) -> None:
        if not (self.step_tolerance_mm > 0 and self.step_angle_rad > 0):
            raise ValueError("step_tolerance_mm and step_angle_rad must be positive")

    @property
    def identity(self) -> dict[str, Any]:
        """Name, rules' version, tolerances, and the libraries that can change a coordinate."""
        return {
            "decoder": "shape",
            "rules": 1,
            "step_tolerance_mm": self.step_tolerance_mm,
            "step_angle_rad": self.step_angle_rad,
            "libraries": {name: version(name) for name in LIBRARIES},
        }

    def facts(self) -> pa.Schema:
        """Return the ``asset.*`` columns, `tokenmill_schemas.arrow.SHAPE_FACT_FIELDS`."""
        return pa.schema(SHAPE_FACT_FIELDS)

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Shape:
        """Decode one object.

        Raises:
            AssetError: ``unreadable``, ``empty``, ``too_many_bytes``, ``unknown_format``,
                ``unsupported``, ``too_many_faces``, ``too_many_points``, ``truncated``,
                ``corrupt`` or ``no_geometry``; the message says what was found.
            MemoryError: the machine, not the asset, is short of memory.
        """
        try:
            data = read_within(stream, ref.size_bytes, self.limits.max_asset_bytes)
            data = data.removeprefix(_BYTE_ORDER_MARK)
            name = _known_format(data, ref)
            return _shape(name, self._read_whole(name, data), ref)
        except AssetError as error:
            error.uri, error.stage = ref.uri, "decode"
            raise

    def _read_whole(self, name: str, data: bytes) -> Geometry:
        """Read ``data``; a text that is wrong in its last, unended line alone is called cut."""
        try:
            return self._read(name, data)
        except AssetError as error:
            stop = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            if error.reason is Reason.CORRUPT and name in _LINES and 0 < stop < len(data):
                self._check_cut(name, data[:stop], error)
            raise

    def _check_cut(self, name: str, whole_lines: bytes, error: AssetError) -> None:
        try:
            self._read(name, whole_lines)
        except AssetError:
            return
        raise truncated(f"{error}, in a last line that does not end") from error

    def _read(self, name: str, data: bytes) -> Geometry:
        budget = Budget.of(self.limits)
        try:
            # Overflow and the like give what is not finite, and that is refused below.
            with np.errstate(all="ignore"):
                if name == "STEP":
                    return read_step(data, budget, (self.step_tolerance_mm, self.step_angle_rad))
                return _READERS[name](data, budget)
        except _BAD_BYTES as error:
            text = f"{name} of {len(data)} bytes: {type(error).__name__}: {error}"
            raise corrupt(text) from error


def _known_format(data: bytes, ref: AssetRef) -> str:
    """Return the format to read ``data`` as."""
    if not data:
        raise AssetError(Reason.EMPTY, "0 bytes")
    name = sniff(data, ref.key if "." in ref.key else ref.uri)
    if name is None:
        text = f"no known 3D format: {len(data)} bytes that start with {data[:16]!r}"
        raise AssetError(Reason.UNKNOWN_FORMAT, text)
    if name not in _READERS and name != "STEP":
        raise unsupported(f"{name}, which is not decoded here")
    return name


def _shape(name: str, found: Geometry, ref: AssetRef) -> Shape:
    content = _content(name, found)
    for part in (found.vertices, found.normals, found.attributes):
        if part is not None and not np.isfinite(part).all():
            raise corrupt(f"{name}: a value is infinite or no number")
    bounds = [*found.vertices.min(axis=0), *found.vertices.max(axis=0)]
    facts = {
        "asset.uri": ref.uri,
        "asset.format": name,
        "asset.content": content,
        "asset.vertices": len(found.vertices),
        "asset.faces": len(found.faces),
        "asset.up_axis": found.up_axis,
        "asset.units": found.units,
        "asset.bounds": [float(value) for value in bounds],
    }
    return Shape(
        content=content,
        vertices=np.ascontiguousarray(found.vertices),
        faces=np.ascontiguousarray(found.faces),
        facts=facts,
        normals=found.normals if content == "points" else None,
        attributes=found.attributes,
        attribute_names=found.attribute_names,
        up_axis=found.up_axis,
    )


def _content(name: str, found: Geometry) -> Content:
    if not len(found.vertices):
        raise AssetError(Reason.NO_GEOMETRY, f"{name} without points and without faces")
    if found.attributes is not None:
        return "gaussians"
    return "mesh" if len(found.faces) else "points"


PLUGIN = ShapeDecoder
