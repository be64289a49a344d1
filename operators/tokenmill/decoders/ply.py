"""PLY: meshes, points, and 3D Gaussian splats, strictly and without more memory than they need.

A splat is a PLY of vertices with the attributes of Kerbl et al., "3D Gaussian Splatting for
Real-Time Radiance Field Rendering" (2023), in any order. They come out in the order of
`splat_names`; the normals, which such files carry as zeros, are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.ply_header import Element, Header, read_header
from tokenmill.decoders.ply_rows import List, Rows, binary_rows, text_rows
from tokenmill.decoders.shape_parts import (
    NO_FACES,
    Budget,
    Faces,
    Geometry,
    checked_faces,
    corrupt,
    fan,
    truncated,
    unsupported,
)

CENTRE = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
_COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
_REST = (
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
_FACES = ("vertex_indices", "vertex_index")
#: Number of ``f_rest`` attributes by the degree of the spherical harmonics.
REST_COUNTS = (0, 9, 24, 45)


def splat_names(degree: int) -> tuple[str, ...]:
    """Return a splat's attributes behind x, y, z for spherical harmonics of a degree, 0 to 3.

    ``f_dc_0..2``, ``f_rest_0..`` (all of red, then green, then blue), ``opacity`` (logit),
    ``scale_0..2`` (natural logarithm), ``rot_0..3`` (quaternion w, x, y, z).
    """
    return (*_COLOUR, *(f"f_rest_{i}" for i in range(REST_COUNTS[degree])), *_REST)


def read_ply(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh, the points or the splat of a PLY file.

    Raises:
        AssetError: ``truncated``, ``corrupt``, ``unsupported`` (compressed splats, triangle
            strips), or a limit.
    """
    header = read_header(data)
    vertex, face = header.element("vertex"), header.element("face")
    budget.points(vertex.count, "PLY header")
    budget.faces(face.count, "PLY header")
    _check_claims(header, len(data))
    names = {p.name for p in vertex.properties if not p.counted}
    _check_kind(header, names)
    rows = binary_rows(data, header) if header.order else text_rows(data, header)
    vertices = np.stack([_column(rows["vertex"], name, np.float64) for name in CENTRE], axis=1)
    if set(splat_names(0)) <= names and not face.count:
        return _splat(vertices, rows["vertex"], names)
    faces = _faces(face, rows, budget)
    normals = None
    if not len(faces) and names.issuperset(NORMAL):
        normals = np.stack([_column(rows["vertex"], n, np.float64) for n in NORMAL], axis=1)
    return Geometry(vertices, checked_faces(faces, len(vertices), "PLY"), normals)


def _check_claims(header: Header, size: int) -> None:
    least = sum(element.least_bytes(text=not header.order) for element in header.elements)
    # The last line of a text need not end.
    if least > size - header.body + (not header.order):
        claims = ", ".join(f"{e.count} of {e.name}" for e in header.elements)
        raise truncated(f"PLY of {size} bytes claims {claims}")


def _check_kind(header: Header, names: set[str]) -> None:
    if "packed_position" in names:
        raise unsupported("PLY of a compressed splat")
    if not names.issuperset(CENTRE):
        raise corrupt("PLY: its vertices have no x, y, z")
    if header.element("tristrips").count and not header.element("face").count:
        raise unsupported("PLY of triangle strips")


def _column(rows: Mapping[str, Any], name: str, dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(rows[name]).astype(dtype)


def _splat(vertices: npt.NDArray[np.float64], rows: Rows, names: set[str]) -> Geometry:
    count = sum(name.startswith("f_rest_") for name in names)
    if count not in REST_COUNTS:
        raise corrupt(f"splat of {count} f_rest attributes; they are one of {REST_COUNTS}")
    order = splat_names(REST_COUNTS.index(count))
    if not names.issuperset(order):
        raise corrupt(f"splat without {', '.join(sorted(set(order) - names))}")
    values = np.empty((len(vertices), len(order)), np.float32)
    for i, name in enumerate(order):
        values[:, i] = rows[name]
    return Geometry(vertices, NO_FACES, attributes=values, attribute_names=order)


def _faces(face: Element, rows: Mapping[str, Rows], budget: Budget) -> Faces:
    if not face.count:
        return NO_FACES
    name = next((p.name for p in face.properties if p.counted and p.name in _FACES), "")
    if not name:
        raise corrupt("PLY: its faces have no list vertex_indices")
    corners = rows["face"][name]
    if not isinstance(corners, List):
        raise corrupt("PLY: vertex_indices is no list")
    budget.faces(int(np.maximum(corners.sizes - 2, 0).sum()), "PLY")
    return fan(corners.sizes, corners.values.astype(np.int64))
