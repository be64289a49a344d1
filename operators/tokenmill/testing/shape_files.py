"""Small 3D files for tests, whole or wrong on purpose, written from the formats' descriptions."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.ply import splat_names
from tokenmill.testing.shapes import Floats, Ints, Mesh

_FORMATS = {"": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}
_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"


def obj(mesh: Mesh) -> bytes:
    """Return an OBJ file."""
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces.tolist()]
    return "\n".join([*lines, ""]).encode()


def off(mesh: Mesh) -> bytes:
    """Return an OFF file."""
    lines = ["OFF", f"{len(mesh.vertices)} {len(mesh.faces)} 0"]
    lines += [f"{x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    return "\n".join([*lines, ""]).encode()


def stl(mesh: Mesh, header: bytes = b"made for a test") -> bytes:
    """Return a binary STL file."""
    records = np.zeros(len(mesh.faces), [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    records["v"] = mesh.vertices[mesh.faces]
    return header.ljust(80, b"\0") + struct.pack("<I", len(records)) + records.tobytes()


def stl_text(mesh: Mesh) -> bytes:
    """Return a text STL file."""
    facets = [
        "facet normal 0 0 0\n outer loop\n"
        + "".join(f"  vertex {x!r} {y!r} {z!r}\n" for x, y, z in corners)
        + " endloop\nendfacet\n"
        for corners in mesh.vertices[mesh.faces].tolist()
    ]
    return f"solid made\n{''.join(facets)}endsolid made\n".encode()


def ply(mesh: Mesh, order: str = "<", *, kind: str = "float") -> bytes:
    """Return a PLY file, text ("") or binary of either order, with coordinates of a ``kind``."""
    head = ply_header(
        order,
        f"element vertex {len(mesh.vertices)}",
        *(f"property {kind} {axis}" for axis in "xyz"),
        f"element face {len(mesh.faces)}",
        "property list uchar int vertex_indices",
    )
    if not order:
        rows = [" ".join(map(repr, row)) for row in mesh.vertices.tolist()]
        rows += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
        return head + "\n".join([*rows, ""]).encode()
    records = np.zeros(len(mesh.faces), [("n", "u1"), ("v", order + "i4", 3)])
    records["n"], records["v"] = 3, mesh.faces
    width = "f4" if kind == "float" else "f8"
    return head + mesh.vertices.astype(order + width).tobytes() + records.tobytes()


def ply_header(order: str, *lines: str) -> bytes:
    """Return a PLY header of the given lines between ``format`` and ``end_header``."""
    return "\n".join(["ply", f"format {_FORMATS[order]} 1.0", *lines, "end_header", ""]).encode()


def splat_ply(
    values: npt.NDArray[np.float32], order: str = "<", *, names: Sequence[str] = ()
) -> bytes:
    """Return a splat file of ``float32[N, C]`` with 3DGS's properties, or those of ``names``.

    ``values`` are x, y, z and `tokenmill.decoders.ply.splat_names` of a degree; ``nx``, ``ny`` and
    ``nz`` among ``names`` are zeros, and so is any that is not known.
    """
    degree = {14: 0, 23: 1, 38: 2, 59: 3}[values.shape[1]]
    columns = dict(zip(("x", "y", "z", *splat_names(degree)), values.T, strict=True))
    usual = ("x", "y", "z", "nx", "ny", "nz", *splat_names(degree))
    chosen = list(names) or list(usual)
    lines = [f"element vertex {len(values)}", *(f"property float {name}" for name in chosen)]
    table = np.stack([columns.get(name, np.zeros(len(values))) for name in chosen], axis=1)
    if not order:
        rows = [" ".join(map(repr, row)) for row in table.tolist()]
        return ply_header("", *lines) + "\n".join([*rows, ""]).encode()
    return ply_header(order, *lines) + table.astype(order + "f4").tobytes()


def xyz(points: Floats, *, comma: bool = False) -> bytes:
    """Return a text of columns."""
    mark = "," if comma else " "
    return "".join(mark.join(map(repr, row)) + "\n" for row in points.tolist()).encode()


def glb(tree: Mapping[str, Any], binary: bytes = b"") -> bytes:
    """Return a GLB file of a glTF tree and the bytes of its first buffer."""
    text = json.dumps(tree).encode()
    chunks = _chunk(b"JSON", text, b" ") + (_chunk(b"BIN\0", binary, b"\0") if binary else b"")
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _chunk(kind: bytes, body: bytes, fill: bytes) -> bytes:
    padded = body + fill * (-len(body) % 4)
    return struct.pack("<I", len(padded)) + kind + padded


def gltf(tree: dict[str, Any], binary: bytes) -> bytes:
    """Return a glTF file whose first buffer lies in it as base64."""
    uri = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    return json.dumps({**tree, "buffers": [{"byteLength": len(binary), "uri": uri}]}).encode()


def scene(mesh: Mesh, nodes: Sequence[Mapping[str, Any]] = ()) -> tuple[dict[str, Any], bytes]:
    """Return a glTF tree with ``mesh`` as mesh 0, and its buffer.

    ``nodes`` (one, with the mesh, unless told) stand in the tree as they are; node 0 is the root.
    """
    points, corners = mesh.vertices.astype("<f4").tobytes(), mesh.faces.astype("<u4").tobytes()
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [dict(node) for node in nodes] or [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            _accessor(0, 5126, len(mesh.vertices), "VEC3"),
            _accessor(1, 5125, mesh.faces.size, "SCALAR"),
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(points)},
            {"buffer": 0, "byteOffset": len(points), "byteLength": len(corners)},
        ],
        "buffers": [{"byteLength": len(points) + len(corners)}],
    }
    return tree, points + corners


def _accessor(view: int, component: int, count: int, kind: str) -> dict[str, Any]:
    return {"bufferView": view, "componentType": component, "count": count, "type": kind}


def mesh_xml(mesh: Mesh, name: str = "1") -> str:
    """Return a 3MF object of one mesh."""
    points = "".join(
        f'<vertex x="{x!r}" y="{y!r}" z="{z!r}"/>' for x, y, z in mesh.vertices.tolist()
    )
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in mesh.faces.tolist())
    inside = f"<vertices>{points}</vertices><triangles>{faces}</triangles>"
    return f'<object id="{name}" type="model"><mesh>{inside}</mesh></object>'


def model_xml(objects: str, items: str = '<item objectid="1"/>', *, unit: str = "") -> str:
    """Return a 3MF model part."""
    said = f' unit="{unit}"' if unit else ""
    inside = f"<resources>{objects}</resources><build>{items}</build>"
    return f'<model xmlns="{_CORE}" xmlns:p="{_PRODUCTION}"{said}>{inside}</model>'


def threemf(model: str, parts: Mapping[str, str] | None = None) -> bytes:
    """Return a 3MF archive of a root model part and others by path."""
    kind = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
    link = f'<Relationship Target="/3D/3dmodel.model" Id="rel0" Type="{kind}"/>'
    known = {"_rels/.rels": f"<Relationships>{link}</Relationships>", "3D/3dmodel.model": model}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in (known | dict(parts or {})).items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return out.getvalue()


def las(points: Ints, scale: float = 0.01, *, claimed: int = -1) -> bytes:
    """Return a LAS 1.2 file of integer points; its header claims ``claimed`` of them if told."""
    count = len(points) if claimed < 0 else claimed
    head = struct.pack(
        "<4sHH16sBB32s32sHHHIIBHI5I3d3d6d",
        *(b"LASF", 0, 0, b"", 1, 2, b"", b"", 1, 2026, 227, 227, 0, 0, 20, count),
        *(count, 0, 0, 0, 0, scale, scale, scale, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    )
    rows = np.zeros(len(points), [("at", "<i4", 3), ("rest", "u1", 8)])
    rows["at"] = points
    return head + rows.tobytes()
