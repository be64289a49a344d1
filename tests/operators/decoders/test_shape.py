from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.decoders.shape_cases import decoded, reason

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import DecodeLimits, Shape
from tokenmill.decoders.shape import ShapeDecoder
from tokenmill.testing import shape_files as files
from tokenmill.testing.checks import require_identity
from tokenmill.testing.shapes import Mesh, box, cloud, degenerate, non_manifold, splat_values, torus
from tokenmill.testing.step_files import step
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

FACT_NAMES = (
    "uri", "format", "content", "vertices", "faces", "up_axis", "units", "bounds",
)  # fmt: skip
#: Format, writer of a mesh, up axis and unit.
MESH_FILES: dict[str, tuple[str, Callable[[Mesh], bytes], str, str]] = {
    "OBJ": ("OBJ", files.obj, "", ""),
    "OFF": ("OFF", files.off, "", ""),
    "STL binary": ("STL", files.stl, "", ""),
    "STL text": ("STL", files.stl_text, "", ""),
    "PLY little": ("PLY", lambda m: files.ply(m, "<"), "", ""),
    "PLY big": ("PLY", lambda m: files.ply(m, ">"), "", ""),
    "PLY text": ("PLY", lambda m: files.ply(m, ""), "", ""),
    "GLB": ("GLB", lambda m: files.glb(*files.scene(m)), "y", "m"),
    "glTF": ("glTF", lambda m: files.gltf(*files.scene(m)), "y", "m"),
    "3MF": ("3MF", lambda m: files.threemf(files.model_xml(files.mesh_xml(m))), "z", "mm"),
}
ALL_FILES = {
    **{name: write(torus(6, 5)) for name, (_, write, _, _) in MESH_FILES.items()},
    "LAS": files.las(np.arange(30).reshape(-1, 3)),
    "XYZ": files.xyz(cloud(20)),
    "splat": files.splat_ply(splat_values(5, 1)),
    "splat text": files.splat_ply(splat_values(5), ""),
}
SMALL = DecodeLimits(max_faces=100_000, max_points=100_000)


def corners(shape: Shape) -> npt.NDArray[np.float64]:
    """The triangles of a shape, ``float64[F, 3, 3]``."""
    return shape.vertices[shape.faces]


def sorted_corners(triangles: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Triangles turned to a smallest corner first and sorted: equal for equal oriented surfaces."""
    rows = triangles.reshape(-1, 3, 3).astype(np.float32)
    first = [np.lexsort(t.T[::-1])[0] for t in rows]
    turned = np.array([np.roll(t, -i, axis=0) for t, i in zip(rows, first, strict=True)])
    flat = turned.reshape(-1, 9)
    ordered: npt.NDArray[np.float32] = flat[np.lexsort(flat.T[::-1])]
    return ordered


def test_the_contract_holds() -> None:
    """It pickles, has a JSON identity, its facts are its columns, and threads agree."""
    decoder = open_decoder("shape")
    require_identity(decoder)
    clone = pickle.loads(pickle.dumps(decoder))
    assert clone == decoder
    assert decoder.modalities == ("shape",)
    data = files.obj(torus())
    ref = AssetRef("k", "mem://k", size_bytes=len(data))
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(lambda _: clone.decode(ref, io.BytesIO(data)), range(8)))
    assert list(shapes[0].facts) == decoder.facts().names == [f"asset.{n}" for n in FACT_NAMES]
    pa.Table.from_pylist([shapes[0].facts], schema=decoder.facts()).validate(full=True)
    for shape in shapes:
        assert shape.facts == shapes[0].facts
        assert np.array_equal(shape.vertices, torus().vertices)
        assert np.array_equal(shape.faces, torus().faces)


@pytest.mark.parametrize("name", MESH_FILES)
def test_formats_decode_to_what_was_written(name: str) -> None:
    """Every format gives the same triangles, its own convention of axes, and facts that agree."""
    kind, write, up_axis, units = MESH_FILES[name]
    mesh = torus()
    shape = decoded(write(mesh))
    assert corners(shape) == pytest.approx(mesh.vertices[mesh.faces], abs=1e-6)
    assert shape.vertices.dtype == np.float64
    assert shape.faces.dtype == np.int64
    assert shape.content == shape.facts["asset.content"] == "mesh"
    assert (shape.facts["asset.format"], shape.facts["asset.faces"]) == (kind, len(mesh.faces))
    assert shape.facts["asset.vertices"] == len(shape.vertices)
    assert (shape.up_axis, shape.facts["asset.up_axis"]) == (up_axis, up_axis)
    assert shape.facts["asset.units"] == units
    assert shape.facts["asset.bounds"] == pytest.approx([-2.75, -2.75, -0.75, 2.75, 2.75, 0.75])


@pytest.mark.parametrize("name", [n for n in MESH_FILES if not n.startswith("STL")])
def test_vertices_stand_as_in_the_file(name: str) -> None:
    """No reader merges, splits, drops or reorders vertices, wanted or not."""
    mesh = degenerate()
    more = Mesh(np.vstack([mesh.vertices, mesh.vertices[:1], [[7, 8, 9]]]), mesh.faces)
    shape = decoded(MESH_FILES[name][1](more))
    assert np.array_equal(shape.vertices, more.vertices)
    assert np.array_equal(shape.faces, more.faces)


@pytest.mark.parametrize("name", MESH_FILES)
@pytest.mark.parametrize("mesh", [box(), torus(), non_manifold()], ids=["box", "torus", "fin"])
def test_trimesh_reads_the_same_triangles(name: str, mesh: Mesh) -> None:
    """trimesh, an independent reader of all these formats, finds the same oriented surface."""
    kind, write, _, _ = MESH_FILES[name]
    data = write(mesh)
    scene = trimesh.load_scene(io.BytesIO(data), file_type=kind.lower(), process=False)
    found = scene.to_mesh()
    expected = sorted_corners(np.asarray(found.vertices)[np.asarray(found.faces)])
    assert np.array_equal(sorted_corners(corners(decoded(data))), expected)


def test_step_gives_millimetres() -> None:
    """Open CASCADE's triangles of a box have the box's size, surface and orientation."""
    pytest.importorskip("cascadio")
    shape = decoded(step(box((10.0, 20.0, 30.0))))
    assert shape.facts["asset.bounds"] == pytest.approx([0, 0, 0, 10, 20, 30], abs=1e-5)
    a, b, c = corners(shape).transpose(1, 0, 2)
    normals = np.cross(b - a, c - a) / 2
    assert np.linalg.norm(normals, axis=1).sum() == pytest.approx(2 * (200 + 300 + 600), rel=1e-5)
    assert (a * normals).sum() / 3 == pytest.approx(10 * 20 * 30, rel=1e-5)
    assert (shape.up_axis, shape.facts["asset.units"]) == ("z", "mm")
    assert reason(step(box())[:-200]) is Reason.TRUNCATED
    assert reason(b"ISO-10303-21;\nHEADER;\nENDSEC;\nDATA;\nEND-ISO-10303-21;\n") is Reason.CORRUPT


def test_las_points_are_scaled() -> None:
    """Integer coordinates times the header's scale; claims are judged before laspy sees them."""
    pytest.importorskip("laspy")
    grid = np.arange(30).reshape(-1, 3)
    shape = decoded(files.las(grid))
    assert shape.vertices == pytest.approx(grid * 0.01)
    assert (shape.content, shape.up_axis) == ("points", "z")
    assert reason(files.las(grid, claimed=11)) is Reason.TRUNCATED
    assert reason(files.las(grid, claimed=2**32 - 1)) is Reason.TOO_MANY_POINTS
    assert reason(files.las(grid)[:100]) is Reason.TRUNCATED
    data = bytearray(files.las(grid))
    data[100:104] = b"\xff" * 4
    assert reason(bytes(data)) is Reason.CORRUPT
    assert reason(files.las(grid[:0])) is Reason.NO_GEOMETRY


def test_the_limits_come_first() -> None:
    """What is too much is told as such, though the file is cut as well; the rest is cut."""
    claims = ["element vertex 100000000000", *(f"property float {axis}" for axis in "xyz")]
    assert reason(files.ply_header("<", *claims)) is Reason.TOO_MANY_POINTS
    assert reason(files.ply_header("", *claims)) is Reason.TOO_MANY_POINTS
    huge = b"made".ljust(80, b"\0") + b"\xff" * 4
    assert reason(huge, "a.stl") is Reason.TOO_MANY_FACES
    assert reason(b"OFF\n99999999999 12 0\n") is Reason.TOO_MANY_POINTS
    assert reason(b"OFF\n8 99999999999 0\n") is Reason.TOO_MANY_FACES
    assert reason(b"99999999999\n0 0 0\n") is Reason.TOO_MANY_POINTS
    assert reason(b"OFF\n1000000 12 0\n0 0 0\n") is Reason.TRUNCATED
    assert reason(files.obj(box()), max_asset_bytes=10) is Reason.TOO_MANY_BYTES


@pytest.mark.parametrize("name", MESH_FILES)
def test_every_format_holds_to_the_limits(name: str) -> None:
    """One face or vertex above the limit is refused with its own reason; at the limit none is."""
    data = MESH_FILES[name][1](box())
    count = 36 if name.startswith("STL") else 8
    assert decoded(data, max_faces=12, max_points=count).facts["asset.faces"] == 12
    assert reason(data, max_faces=11) is Reason.TOO_MANY_FACES
    assert reason(data, max_points=count - 1) is Reason.TOO_MANY_POINTS


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"", "a.obj", Reason.EMPTY),
        (b"\0\1\2\3", "a.obj", Reason.UNKNOWN_FORMAT),
        (b"some words\n", "a.xyzzy", Reason.UNKNOWN_FORMAT),
        (b"Kaydara FBX Binary  \0", "a.obj", Reason.UNSUPPORTED),
        (b"<?xml version='1.0'?><COLLADA>", "a.dae", Reason.UNSUPPORTED),
        (b"# nothing but words\n", "a.obj", Reason.NO_GEOMETRY),
        (b"OFF\n0 0 0\n", "a", Reason.NO_GEOMETRY),
        (b"solid none\nendsolid none\n", "a", Reason.NO_GEOMETRY),
        (b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "a", Reason.CORRUPT),
        (b"v 0 0 0\nf 1 2 3\n", "a", Reason.CORRUPT),
        (b"v 0 0 0\nf 0 1 1\n", "a", Reason.CORRUPT),
        (b"v 0 0 x\nv 0 0 0\n", "a", Reason.CORRUPT),
        (b"v 0 0 0\nv 0 0", "a", Reason.TRUNCATED),
        (b"OFF\n1 2 0\n0 0 0\n3 0 0\n3 0 0 0\n", "a", Reason.CORRUPT),
        (b"OFF\n1 1 0\n0 0 0\n3 0 0\n", "a", Reason.TRUNCATED),
        (b"v 0 0 0\nf " + b"1 " * 2**20 + b"\n", "a", Reason.CORRUPT),
        (b"OFF BINARY\n\0\0", "a", Reason.UNSUPPORTED),
        (b"4OFF\n1 0 0\n0 0 0 0\n", "a", Reason.UNSUPPORTED),
        (b"0 0 0\n1 1\n", "a", Reason.CORRUPT),
        (b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "a", Reason.TRUNCATED),
        (b"solid a\nfacet\nvertex 0 0 0\nendfacet\nendsolid a\n", "a", Reason.CORRUPT),
    ],
)
def test_reasons_are_distinct(data: bytes, name: str, expected: Reason) -> None:
    """Each kind of wrong file has its own reason."""
    assert reason(data, name) is expected


def test_the_name_decides_only_where_bytes_do_not() -> None:
    """A misnamed file is read as what it is."""
    for name in ("a.stl", "a.glb", "a.xyz", "a"):
        assert decoded(files.obj(box()), name).facts["asset.format"] == "OBJ"
        assert decoded(files.ply(box()), name).facts["asset.format"] == "PLY"
        assert decoded(files.stl(box(), b"solid of spaces"), name).facts["asset.format"] == "STL"


def test_obj_polygons_relative_indices_and_other_lines() -> None:
    """Polygons are fans in the file's order; negative indices count back from their own line."""
    text = b"""\xef\xbb\xbfmtllib none.mtl
    o square
    v 0 0 0 1.0\r
    v 1 0 0 \\
    1.0
    vt 0.5 0.5
    f -2/1 -1/1 -2/1 # and so on
    v 1 1 0
    v 0 1 0
    v -1 .5e0 0
    f 1//1 2//1 3//1 4//1 5//1
    l 1 2 3
    f 1 2
    """
    shape = decoded(text)
    assert shape.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [-1, 0.5, 0]]
    assert shape.faces.tolist() == [[0, 1, 0], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_columns_of_points_and_normals() -> None:
    """Commas, comments and a count are read; unit vectors are normals, colours are not."""
    points = cloud(7)
    shape = decoded(b"# a comment\n7\n" + files.xyz(points, comma=True))
    assert np.array_equal(shape.vertices, points)
    assert (shape.content, shape.normals) == ("points", None)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    with_normals = decoded(files.xyz(np.hstack([points, normals])))
    assert with_normals.normals is not None
    assert np.array_equal(with_normals.normals, normals)
    assert decoded(files.xyz(np.hstack([points, points]))).normals is None
    assert reason(b"9\n" + files.xyz(points)) is Reason.TRUNCATED


def test_off_flavours_and_polygons() -> None:
    """Comments, colours, normals and a header on the line of its counts are read."""
    text = b"# made\nNOFF 4 2 0\n0 0 0 0 0 1\n1 0 0 0 0 1\n1 1 0 0 0 1\n\n0 1 0 0 0 1 # last\n"
    shape = decoded(text + b"4 0 1 2 3 255 0 0\n2 0 1\n")
    assert shape.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert shape.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_options_are_checked() -> None:
    """A tolerance must be positive."""
    with pytest.raises(JobError, match="positive"):
        open_decoder("shape", step_tolerance_mm=0.0)


def endure(data: bytes) -> None:
    """Decode ``data``, whatever it is: anything but a shape or an AssetError is a failure."""
    ref = AssetRef("a.stl", "mem://a.stl", size_bytes=len(data))
    try:
        shape = ShapeDecoder(limits=SMALL).decode(ref, io.BytesIO(data))
    except AssetError:
        return
    assert np.isfinite(shape.vertices).all()
    assert not len(shape.faces) or shape.faces.min() >= 0
    assert not len(shape.faces) or shape.faces.max() < len(shape.vertices)


@pytest.mark.parametrize("name", [name for name in ALL_FILES if name not in ("OBJ", "XYZ")])
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 0.99))
def test_cut_files_are_truncated(name: str, share: float) -> None:
    """A file cut anywhere is called so, once it has begun; lines alone (OBJ, XYZ) cannot tell."""
    whole = ALL_FILES[name]
    cut = whole[: max(32, int(share * len(whole)))].rstrip()
    assert reason(cut, f"a.{name.split()[0].lower()}") is Reason.TRUNCATED


@pytest.mark.parametrize("name", ALL_FILES)
@settings(max_examples=40, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_raises_nothing_else(name: str, changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are changed, a whole shape or an AssetError comes out."""
    data = bytearray(ALL_FILES[name])
    for place, value in changes:
        data[place % (len(data) if place % 2 else min(len(data), 400))] = value
    endure(bytes(data))
