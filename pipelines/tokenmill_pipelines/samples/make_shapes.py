"""Makes the objects in ``pipelines/samples/shapes`` from one PyPI package, by their recipe.

Run once by whoever changes the corpus; everybody else uses the files it made::

    tokenmill samples fetch pybullet --to corpora
    python -m tokenmill_pipelines.samples.make_shapes --root corpora/pybullet/objects

The same versions of trimesh and numpy write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh

#: Zeroth-order spherical harmonic: a splat's colour is ``0.5 + C0 * f_dc`` (Kerbl et al. 2023).
C0 = 0.28209479177387814
SPLAT = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
Floats = npt.NDArray[np.float64]

HARD = {
    "hard/degenerate.obj": "A cube of which four faces have no area and one is there twice",
    "hard/non_manifold.off": "Three walls that meet in one edge, and two cones tip to tip",
}
BAD = {
    "bad/empty.obj": "A file of no bytes",
    "bad/nothing.ply": "A PLY without a vertex",
    "bad/claims.ply": "A PLY of 200 bytes that claims 100,000,000,000 vertices",
    "bad/truncated.stl": "The first half of objects/finger.stl",
    "bad/text.glb": "A line of text that is named like an object",
    "bad/not_a_number.obj": "A triangle with a corner at infinity",
}


def main() -> None:
    """Write the objects, the hard and the bad files, and the listing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="pybullet_data")
    parser.add_argument("--out", type=Path, default=Path("pipelines/samples"))
    args = parser.parse_args()
    entries = tomllib.loads((args.out / "shapes.toml").read_text(encoding="utf-8"))["object"]
    for entry in entries:
        make_object(entry, args.root, args.out / "shapes" / entry["path"])
    make_hard(args.out / "shapes")
    make_bad(args.out / "shapes")
    (args.out / "shapes.jsonl").write_text(listing(entries), encoding="utf-8")


def make_object(entry: dict[str, Any], root: Path, path: Path) -> None:
    """Write the object that one entry of the recipe describes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = root / entry["original"]
    if "form" not in entry:
        shutil.copyfile(source, path)
        return
    mesh = trimesh.load_mesh(source, process=False)
    path.write_bytes(FORMS[entry["form"]](mesh))


def _scene(mesh: trimesh.Trimesh) -> bytes:
    bare = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    scene = trimesh.Scene()
    scene.add_geometry(bare, node_name="mug", geom_name="mug")
    turn = np.asarray(trimesh.transformations.rotation_matrix(np.pi / 3, [0, 1, 0]), np.float64)
    turn[:3, 3] = [1.6 * np.ptp(mesh.vertices[:, 0]), 0.02, 0]
    scene.add_geometry(bare, node_name="other", geom_name="mug", transform=turn)
    data: Any = scene.export(file_type="glb")
    return bytes(data)


def _exported(kind: str, **options: Any) -> Callable[[trimesh.Trimesh], bytes]:
    def write(mesh: trimesh.Trimesh) -> bytes:
        bare = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        data = bare.export(file_type=kind, **options)
        return data.encode() if isinstance(data, str) else bytes(data)

    return write


def surface(mesh: trimesh.Trimesh, count: int) -> tuple[Floats, Floats]:
    """Return ``count`` points of the surface and their normals, always the same ones."""
    found: Any = trimesh.sample.sample_surface(mesh, count, seed=0)
    points, faces = found
    return np.asarray(points), np.asarray(mesh.face_normals[faces])


def _points_ply(mesh: trimesh.Trimesh) -> bytes:
    points, normals = surface(mesh, 2048)
    names = ("x", "y", "z", "nx", "ny", "nz")
    return ply(np.hstack([points, normals]), names)


def _points_xyz(mesh: trimesh.Trimesh) -> bytes:
    points, _ = surface(mesh, 1500)
    return "".join(f"{x:.5f} {y:.5f} {z:.5f}\n" for x, y, z in points).encode()


def _splat(mesh: trimesh.Trimesh) -> bytes:
    """Flat Gaussians on the surface, turned to its normals and coloured by them."""
    points, normals = surface(mesh, 1000)
    size = np.log(0.02 * mesh.scale)
    scales = np.tile([size, size, size - 2.0], (len(points), 1))
    colours = (np.abs(normals) - 0.5) / C0
    opacity = np.full((len(points), 1), 3.0)
    columns = [points, np.zeros_like(points), colours, opacity, scales, _turns(normals)]
    return ply(np.hstack(columns), SPLAT)


def _turns(normals: Floats) -> Floats:
    """Return unit quaternions (w, x, y, z) that turn the z axis to each normal."""
    w = 1.0 + normals[:, 2]
    turns = np.stack([w, -normals[:, 1], normals[:, 0], np.zeros(len(normals))], axis=1)
    turns[w < 1e-6] = [0.0, 1.0, 0.0, 0.0]
    unit: Floats = turns / np.linalg.norm(turns, axis=1, keepdims=True)
    return unit


def ply(values: Floats, names: tuple[str, ...]) -> bytes:
    """Return a binary PLY of float32 vertices."""
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(values)}"]
    lines += [*(f"property float {name}" for name in names), "end_header", ""]
    return "\n".join(lines).encode() + values.astype("<f4").tobytes()


FORMS: dict[str, Callable[[trimesh.Trimesh], bytes]] = {
    "scene": _scene,
    "off": _exported("off"),
    "3mf": _exported("3mf"),
    "stl_ascii": _exported("stl_ascii"),
    "ply_ascii": _exported("ply", encoding="ascii"),
    "points_ply": _points_ply,
    "points_xyz": _points_xyz,
    "splat": _splat,
}


def make_hard(shapes: Path) -> None:
    """Write objects that are odd and still have a surface."""
    (shapes / "hard").mkdir(parents=True, exist_ok=True)
    box = trimesh.creation.box()
    flat = np.array([[0, 0, 1], [2, 3, 3], [4, 4, 4], [5, 6, 6]])
    faces = np.vstack([box.faces, flat, box.faces[:1]])
    odd = trimesh.Trimesh(box.vertices, faces, process=False)
    text = str(odd.export(file_type="obj", header=None))
    (shapes / "hard/degenerate.obj").write_text(text + "\n")
    corners = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0], [0, 0, 2], [1, 1, 2]]
    corners += [[1, -1, 2], [-1, 0, 2], [0, 0, 3]]
    walls = [[0, 1, 2], [0, 1, 3], [0, 1, 4]]
    cones = [[5, 6, 7], [5, 7, 8], [5, 8, 6], [9, 7, 6], [9, 8, 7], [9, 6, 8], [1, 5, 6]]
    lines = ["OFF", f"{len(corners)} {len(walls) + len(cones)} 0"]
    lines += [" ".join(map(str, corner)) for corner in corners]
    lines += [" ".join(map(str, [3, *face])) for face in walls + cones]
    (shapes / "hard/non_manifold.off").write_text("\n".join(lines) + "\n")


def make_bad(shapes: Path) -> None:
    """Write the files that must end in quarantine, each for another reason."""
    (shapes / "bad").mkdir(parents=True, exist_ok=True)
    whole = (shapes / "objects/finger.stl").read_bytes()
    (shapes / "bad/truncated.stl").write_bytes(whole[: len(whole) // 2])
    (shapes / "bad/empty.obj").write_bytes(b"")
    (shapes / "bad/text.glb").write_text("This is not an object, whatever its name says.\n")
    (shapes / "bad/nothing.ply").write_bytes(ply(np.empty((0, 3)), ("x", "y", "z")))
    huge = ply(np.empty((0, 3)), ("x", "y", "z")).replace(b"vertex 0", b"vertex 100000000000")
    (shapes / "bad/claims.ply").write_bytes(huge + struct.pack("<9f", *range(9)))
    text = "v 0 0 0\nv 1 0 0\nv 0 inf 0\nf 1 2 3\n"
    (shapes / "bad/not_a_number.obj").write_text(text)


def listing(entries: list[dict[str, Any]]) -> str:
    """Return the JSONL listing: uri (relative to it), caption, label and licence per file."""
    rows = [(e["path"], e["caption"], "Zlib") for e in entries]
    rows += [(path, text, "CC0-1.0") for path, text in {**HARD, **BAD}.items()]
    records = []
    for path, caption, licence in sorted(rows):
        given = "Zlib" if path == "bad/truncated.stl" else licence
        label = path.partition("/")[0]
        records.append(
            {"uri": f"shapes/{path}", "caption": caption, "label": label, "licence": given}
        )
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


if __name__ == "__main__":
    main()
