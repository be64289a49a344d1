"""3D formats that need a library of their own: LAS and LAZ (laspy), STEP (cascadio).

A format whose library is not installed is ``unsupported``; nothing is imported before it is needed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np

from tokenmill.decoders.shape_gltf import read_gltf
from tokenmill.decoders.shape_parts import (
    NO_FACES,
    Budget,
    Geometry,
    corrupt,
    truncated,
    unsupported,
)

LIBRARIES = ("laspy", "cascadio")
_STEP_END = b"END-ISO-10303-21"
_MILLIMETRES = 1000.0
_LAS_HEADER_BYTES = 227
_LAS_RECORD_BYTES = 54


def version(library: str) -> str:
    """Return a library's version, or "" where it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise unsupported(f"{what} needs {name}, which is not installed") from error


def read_las(data: bytes, budget: Budget) -> Geometry:
    """Return the points of a LAS file, or of a LAZ file where laspy has a decompressor; z up.

    Raises:
        AssetError: ``truncated``, ``corrupt``, ``unsupported``, or a limit.
    """
    laspy = _library("laspy", "LAS")
    _check_las_header(data)
    try:
        with laspy.open(io.BytesIO(data), closefd=False, read_evlrs=False) as reader:
            header = reader.header
            count = budget.points(int(header.point_count), "LAS header")
            if header.are_points_compressed:
                _check_decompressor(laspy)
            elif header.offset_to_point_data + count * header.point_format.size > len(data):
                raise truncated(f"LAS of {len(data)} bytes claims {count} points")
            points = reader.read_points(count) if count else None
    except laspy.errors.LaspyException as error:
        raise corrupt(f"LAS: {error}") from error
    if points is None:
        return Geometry(np.zeros((0, 3)), NO_FACES, up_axis="z")
    if len(points) < count:
        raise truncated(f"LAS claims {count} points and has {len(points)}")
    vertices = np.stack([np.asarray(points[axis], np.float64) for axis in "xyz"], axis=1)
    return Geometry(vertices, NO_FACES, up_axis="z")


def _check_las_header(data: bytes) -> None:
    """Hold what the header says of its records against the file: laspy believes it.

    LAS Specification 1.4, table 3: header size, offset to points, count of variable length records.
    """
    if len(data) < _LAS_HEADER_BYTES:
        raise truncated(f"LAS of {len(data)} bytes; its header alone has {_LAS_HEADER_BYTES}")
    size, offset, records = struct.unpack_from("<HII", data, 94)
    if offset > len(data):
        raise truncated(f"LAS of {len(data)} bytes whose points begin at {offset}")
    if size < _LAS_HEADER_BYTES or size + records * _LAS_RECORD_BYTES > offset:
        raise corrupt(f"LAS: {records} records and a header of {size} bytes before {offset}")


def _check_decompressor(laspy: Any) -> None:
    if not any(backend.is_available() for backend in laspy.LazBackend):
        raise unsupported("LAZ needs lazrs or laszip beside laspy, and neither is installed")


def read_step(data: bytes, budget: Budget, tolerance: tuple[float, float]) -> Geometry:
    """Return the triangles of a STEP file's surfaces, in millimetres, z up.

    ``tolerance`` is the greatest distance between surface and triangles in millimetres, and the
    greatest angle between neighbouring ones in radians.

    Raises:
        AssetError: ``truncated``, ``corrupt``, ``unsupported``, or a limit.
    """
    cascadio = _library("cascadio", "STEP")
    if _STEP_END not in data[-256:]:
        raise truncated(f"STEP of {len(data)} bytes without {_STEP_END.decode()}")
    linear, angular = tolerance
    glb = cascadio.load(data, "step", tol_linear=linear, tol_angular=angular, use_parallel=False)
    if not glb:
        raise corrupt(f"STEP of {len(data)} bytes: Open CASCADE read no shape in it")
    return _as_step(read_gltf(glb, budget))


def _as_step(found: Geometry) -> Geometry:
    """Return in millimetres what cascadio wrote in metres; it leaves the axes as STEP has them."""
    return replace(found, vertices=found.vertices * _MILLIMETRES, up_axis="z", units="mm")
