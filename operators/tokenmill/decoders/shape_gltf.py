"""glTF 2.0 and GLB: every mesh of the scene, transforms baked, y up, in metres.

What is read: triangles, strips and fans, and points where there is nothing else. Materials,
textures, skins and morph targets are passed over: a skinned mesh stands as its node does. Lines are
skipped. The scene must be a forest, as section 3.5.2 of the specification demands, so a walk ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.gltf_buffers import Gltf, Json, accessor, accessor_count, parse
from tokenmill.decoders.shape_parts import (
    NO_FACES,
    Budget,
    Faces,
    Geometry,
    Points,
    checked_faces,
    corrupt,
    joined,
    moved,
    unsupported,
)

Matrix = npt.NDArray[np.float64]

_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6
_SOLID = (_TRIANGLES, _STRIP, _FAN)
#: Required extensions without which the geometry would be wrong.
_UNREAD = (
    *("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"),
    *("EXT_mesh_gpu_instancing", "KHR_gaussian_splatting"),
)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A primitive of a mesh, under a transform."""

    primitive: Json
    matrix: Matrix

    @property
    def mode(self) -> int:
        mode = self.primitive.get("mode", _TRIANGLES)
        return mode if isinstance(mode, int) else -1

    @property
    def position(self) -> Any:
        """Index of the accessor of positions; None where there is none."""
        attributes = self.primitive.get("attributes")
        if not isinstance(attributes, dict):
            raise corrupt("glTF: a primitive without attributes")
        return attributes.get("POSITION")


def read_gltf(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh of a GLB or glTF file's scene, or its points if it has no triangles.

    Raises:
        AssetError: see `tokenmill.decoders.gltf_buffers.parse`; ``corrupt`` where the nodes are no
            forest; ``unsupported`` where geometry is compressed; or a limit.
    """
    gltf = parse(data)
    _check_extensions(gltf)
    placed = [each for each in _primitives(gltf) if each.position is not None]
    solid = [each for each in placed if each.mode in _SOLID]
    chosen = solid or [each for each in placed if each.mode == _POINTS]
    _check_budget(gltf, chosen, budget)
    vertices, faces = joined(_mesh(gltf, each) for each in chosen)
    return Geometry(vertices, faces, up_axis="y", units="m")


def _check_extensions(gltf: Gltf) -> None:
    required = gltf.tree.get("extensionsRequired", [])
    unread = [name for name in _UNREAD if isinstance(required, list) and name in required]
    if unread:
        raise unsupported(f"glTF that requires {', '.join(unread)}")


def _primitives(gltf: Gltf) -> Iterator[_Placed]:
    """Yield the primitives of the scene, node by node, children after their parents."""
    pending = [(root, np.eye(4)) for root in reversed(_roots(gltf))]
    reached: set[Any] = set()
    while pending:
        index, above = pending.pop()
        node = gltf.item("nodes", index)
        if index in reached:
            raise corrupt(f"glTF: node {index} is reached twice; the nodes are no tree")
        reached.add(index)
        matrix = above @ _local(node)
        if "mesh" in node:
            mesh = gltf.item("meshes", node["mesh"])
            for primitive in mesh.get("primitives", []):
                yield _Placed(primitive, matrix)
        pending += [(child, matrix) for child in reversed(node.get("children", []))]


def _roots(gltf: Gltf) -> list[Any]:
    """Return the scene's root nodes; without scenes, the nodes that are nobody's children."""
    if gltf.items("scenes"):
        scene = gltf.item("scenes", gltf.tree.get("scene", 0))
        return list(scene.get("nodes", []))
    nodes = gltf.items("nodes")
    children = {child for node in nodes for child in node.get("children", [])}
    return [index for index in range(len(nodes)) if index not in children]


def _local(node: Json) -> Matrix:
    """Return a node's transform ``float64[4, 4]``: its matrix, or translation, rotation, scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    scale = np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
    matrix[:3, :3] = rotation(np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)) * scale
    matrix[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    return matrix


def rotation(quaternion: npt.NDArray[np.float64]) -> Matrix:
    """Return the rotation ``float64[3, 3]`` of a quaternion x, y, z, w of any length but zero."""
    x, y, z, w = quaternion.reshape(4) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _check_budget(gltf: Gltf, placed: list[_Placed], budget: Budget) -> None:
    """Hold the scene's claims, every instance counted, against the limits."""
    points = faces = 0
    for each in placed:
        count = accessor_count(gltf, each.position)
        indices = each.primitive.get("indices")
        corners = count if indices is None else accessor_count(gltf, indices)
        points = budget.points(points + count, "glTF")
        if each.mode != _POINTS:
            faces += corners // 3 if each.mode == _TRIANGLES else max(corners - 2, 0)
            budget.faces(faces, "glTF")


def _mesh(gltf: Gltf, placed: _Placed) -> tuple[Points, Faces]:
    vertices = accessor(gltf, placed.position).astype(np.float64)
    if vertices.shape[1] != 3:
        raise corrupt(f"glTF: positions of {vertices.shape[1]} values")
    faces = NO_FACES
    if placed.mode != _POINTS:
        faces = checked_faces(_faces(gltf, placed, len(vertices)), len(vertices), "glTF")
    return moved(vertices, faces, placed.matrix)


def _faces(gltf: Gltf, placed: _Placed, count: int) -> Faces:
    indices = placed.primitive.get("indices")
    if indices is None:
        corners = np.arange(count, dtype=np.int64)
    else:
        found = accessor(gltf, indices)
        if found.shape[1] != 1 or found.dtype.kind != "u":
            raise corrupt("glTF: indices are no unsigned integers")
        corners = found[:, 0].astype(np.int64)
    if placed.mode == _TRIANGLES:
        if len(corners) % 3:
            raise corrupt(f"glTF: {len(corners)} corners are no triangles")
        return corners.reshape(-1, 3)
    return _strip(corners) if placed.mode == _STRIP else _fan(corners)


def _strip(corners: npt.NDArray[np.int64]) -> Faces:
    """Return a strip's triangles; every other one is turned about, so that all face one way."""
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces


def _fan(corners: npt.NDArray[np.int64]) -> Faces:
    first = np.broadcast_to(corners[:1], len(corners[1:-1]))
    return np.stack([corners[1:-1], corners[2:], first], axis=1)
