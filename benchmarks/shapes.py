"""3D: voxels and mesh sequences beside trimesh's, and a whole job beside a plain loop.

The meshes are OBJ files of pybullet's data, every n-th by name. All counts are by CPU seconds
(user and system) of one thread.

- Voxels: from arrays of vertices and faces to occupancy at 64 x 64 x 64, normalised by the longest
  side. Ours is the view ``voxels``: every cell that a triangle meets, exactly. trimesh's is
  ``mesh.voxelized(pitch)`` as it comes: it subdivides until all edges are shorter than a cell and
  takes the cells of the vertices, which misses cells that a triangle only cuts a corner of. Its
  cells lie as ours do.
- Sequences: from the same arrays to ids at 128 bins, by the view ``mesh`` and the tokenizer
  ``mesh_sequence``. For ``meshxl`` the trimesh version moves, scales and rounds a mesh and takes
  its triangles: the same ids. For ``amt`` it also merges vertices (``merge_vertices``), drops
  faces that repeat or have no area (``update_faces``) and sorts; ours walks its strips besides.
- Whole job: objects to voxels to ids of voxel_vq. Bare: one process, one thread, one loop: read the
  file, the decoder, the view, `preprocess` and `encode` of stacked batches; tokens and keys as an
  Arrow file, its SHA-256, fsync. The pipeline's runs are those of the efficiency benchmark: local
  with one actor, Ray with two, and bound to a single core. Imports and a first object come before.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Measure, Section, answer, child, task_given
from benchmarks.whole import Bare, Trial, compare, plain, run_child, write_arrow

RESOLUTION, BINS = 64, 128
#: What trimesh does is done at least as fast.
VOXEL_BAR = 1.0
ORDERS = ("meshxl", "amt")

JOB = Trial(
    "voxel_vq",
    "shapes",
    "object",
    tokenizer={"inner": "voxel_vq", "options": {}},
    view={"kind": "voxels", "resolution": RESOLUTION},
    batch=32,
    unit=100,
    ratios=(("bare", "local"), ("bare", "ray"), ("bare, one core", "local, one core")),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: meshes beside trimesh, objects through a whole job."""

    rounds: int = 2
    meshes: int = 100
    objects: int = 600


def run(corpus: Path, *, size: Size | None = None) -> list[Section]:
    """Measure; ``corpus`` is a fetched pybullet."""
    size = size or Size()
    meshes, objects = objs(corpus, size.meshes), objs(corpus, size.objects)
    runs = [child("shapes", {"do": "trimesh", "paths": meshes}) for _ in range(size.rounds)]
    jobs = compare(JOB, [meshes[0], *objects], size.rounds)
    title = f"3D: {size.rounds} rounds of {runs[0]['meshes']} meshes and {len(objects)} objects"
    return [Section(title, __doc__ or "", (*_rows(runs), *jobs), (_cells_note(runs[0]),))]


def objs(corpus: Path, count: int) -> list[str]:
    """Return the paths of ``count`` OBJ files of a fetched corpus: every n-th by name."""
    lines = (corpus / "listing.jsonl").read_text(encoding="utf-8").splitlines()
    keys = sorted(row["uri"] for row in map(json.loads, lines) if row["uri"].endswith(".obj"))
    if len(keys) < count:
        raise RuntimeError(f"{corpus} has {len(keys)} OBJ files, {count} were asked for")
    return [str(corpus / key) for key in keys[:: len(keys) // count][:count]]


def _rows(runs: list[dict[str, Any]]) -> Iterator[Measure]:
    for name, unit, bar in (
        ("voxels", "voxelisations", VOXEL_BAR),
        *((order, "sequences", None) for order in ORDERS),
    ):
        for who in ("ours", "trimesh"):
            rates = tuple(run["meshes"] / run["cpu_s"][f"{name}, {who}"] for run in runs)
            yield Measure(f"{name}, {who}", f"{unit}/s", rates)
        ratios = (run["cpu_s"][f"{name}, trimesh"] / run["cpu_s"][f"{name}, ours"] for run in runs)
        yield Measure(f"{name}: ours / trimesh", "ratio", tuple(ratios), bar)


def _cells_note(found: dict[str, Any]) -> str:
    both, ours, theirs = (found["cells"][name] for name in ("both", "ours", "trimesh"))
    return (
        f"Cells: ours {ours:,}, trimesh {theirs:,}; of trimesh's {both / theirs:.2%} are among "
        f"ours, of ours {both / ours:.2%} among trimesh's."
    )


def bare(task: dict[str, Any]) -> Bare:
    """Decode, view, encode and write in one plain loop; what cannot be read is left out."""
    import numpy as np

    _, encoder, view = plain(task)
    found, tokens = Bare(), list[Any]()
    held, keys = list[Any](), list[str]()

    def encode() -> None:
        with found.step("encode"):
            tokens.append(encoder.encode(encoder.preprocess(np.stack(held))))
        held.clear()

    for path, shape in _decoded(task["paths"], found):
        with found.step("view"):
            views = [each.data for each in view.views(shape, path)]
        keys.extend(path for _ in views)
        held.extend(views)
        if len(held) >= task["batch"]:
            encode()
    if held:
        encode()
    found.things, found.samples = len(task["paths"]), len(keys)
    with tempfile.TemporaryDirectory(prefix="bench-bare-") as folder, found.step("write"):
        write_arrow(tokens, keys, Path(folder, "tokens.arrow"))
    return found


def _decoded(paths: list[str], found: Bare) -> Iterator[tuple[str, Any]]:
    """Yield the shapes that can be decoded."""
    from tokenmill.decoders import open_decoder
    from tokenmill_schemas.asset import AssetRef
    from tokenmill_schemas.errors import AssetError

    decoder = open_decoder("shape")
    for path in paths:
        shape = None
        with found.step("decode"), contextlib.suppress(AssetError), Path(path).open("rb") as stream:
            shape = decoder.decode(AssetRef(path, path, modality="shape"), stream)
        if shape is not None:
            yield path, shape


def beside_trimesh(task: dict[str, Any]) -> dict[str, Any]:
    """Time ours and trimesh's on each mesh in turns; also count their cells."""
    import numpy as np

    ways = _ways()
    shapes = [shape for _, shape in _decoded(task["paths"], Bare()) if len(shape.faces)]
    spent = dict.fromkeys(ways, 0.0)
    cells = {"both": 0, "ours": 0, "trimesh": 0}
    for way in ways.values():
        way(shapes[0])
    for shape in shapes:
        made: dict[str, Any] = {}
        for name, way in ways.items():
            start = time.process_time()
            made[name] = way(shape)
            spent[name] += time.process_time() - start
        ours, theirs = made["voxels, ours"], made["voxels, trimesh"]
        grid = _grid(theirs)
        cells["ours"] += int(ours.sum())
        cells["trimesh"] += int(grid.sum())
        cells["both"] += int((ours & grid).sum())
        if not np.array_equal(made["meshxl, ours"], made["meshxl, trimesh"]):
            raise RuntimeError(f"{shape.facts['asset.uri']}: not the same ids")
    return {"meshes": len(shapes), "cpu_s": spent, "cells": cells}


def _ways() -> dict[str, Callable[[Any], Any]]:
    """Return what is timed: from a decoded shape to a grid or to ids."""
    from tokenmill.views import open_view

    voxels = open_view("voxels", {"resolution": RESOLUTION, "up": "as_is"})
    ways: dict[str, Callable[[Any], Any]] = {
        "voxels, ours": lambda shape: next(voxels.views(shape, "")).data,
        "voxels, trimesh": trimesh_voxels,
    }
    for order, theirs in zip(ORDERS, (trimesh_meshxl, trimesh_amt), strict=True):
        ways |= {f"{order}, ours": _sequencer(order), f"{order}, trimesh": theirs}
    return ways


def _sequencer(order: str) -> Callable[[Any], Any]:
    from tokenmill.tokenizers import open_tokenizer
    from tokenmill.views import open_view

    encoder = open_tokenizer("mesh_sequence", variant=order, bins=BINS).load("cpu")
    view = open_view("mesh", {"rule": order, "bins": BINS, "max_faces": 0})

    def sequence(shape: Any) -> Any:
        soup = next(view.views(shape, "")).data
        return encoder.encode(encoder.preprocess([soup]))["mesh"][0]

    return sequence


def _placed(shape: Any, side: float) -> Any:
    """Return trimesh's mesh of a shape, its longest side made ``side`` about the origin."""
    import trimesh

    mesh: Any = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    low, high = mesh.bounds
    mesh.apply_translation(-(low + high) / 2)
    mesh.apply_scale(side / (high - low).max())
    return mesh


def trimesh_voxels(shape: Any) -> Any:
    """Return trimesh's voxels of pitch 1, whose centres are whole numbers, as ours of R cells."""
    mesh = _placed(shape, RESOLUTION)
    mesh.apply_translation([(RESOLUTION - 1) / 2] * 3)
    return mesh.voxelized(1.0)


def _grid(voxels: Any) -> Any:
    """Return the cells of trimesh's voxels ``bool[R, R, R]``; none beyond the border."""
    import numpy as np

    cells = np.rint(voxels.points).astype(np.int64)
    cells = cells[((cells >= 0) & (cells < RESOLUTION)).all(axis=1)]
    grid = np.zeros((RESOLUTION,) * 3, bool)
    grid[tuple(cells.T)] = True
    return grid


def trimesh_meshxl(shape: Any) -> Any:
    """Return MeshXL's ids ``[9 F]`` by trimesh: bins of its triangles' corners, as stored."""
    import numpy as np

    mesh = _placed(shape, 2.0)
    share = (mesh.vertices.astype(np.float32) + np.float32(1)) / np.float32(2)
    bins = np.clip(np.rint(share * np.float32(BINS) - np.float32(0.5)), 0, BINS - 1)
    return bins.astype(np.int64)[mesh.faces].reshape(-1)


def trimesh_amt(shape: Any) -> Any:
    """Return the ids ``[9 F]`` of a mesh that trimesh cleaned, its faces sorted; no strips."""
    import numpy as np

    mesh = _placed(shape, 1.0)
    mesh.vertices = np.clip(np.rint((mesh.vertices + 0.5) * BINS - 0.5), 0, BINS - 1)
    mesh.merge_vertices()
    mesh.update_faces(mesh.unique_faces())
    mesh.update_faces(mesh.nondegenerate_faces())
    faces = np.sort(mesh.faces, axis=1)
    ordered = faces[np.lexsort(faces.T[::-1])]
    return mesh.vertices[ordered].astype(np.int64).reshape(-1)


def in_child(task: dict[str, Any]) -> dict[str, Any]:
    """Do what a child was told."""
    return beside_trimesh(task) if task["do"] == "trimesh" else run_child(task, bare)


if __name__ == "__main__":
    answer(in_child(task_given()))
