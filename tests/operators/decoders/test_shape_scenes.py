from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tests.operators.decoders.shape_cases import decoded, reason

from tokenmill.decoders import gltf_buffers
from tokenmill.testing.shape_files import glb, gltf, mesh_xml, model_xml, scene, threemf
from tokenmill.testing.shapes import box
from tokenmill_schemas.errors import Reason

Matrix = npt.NDArray[np.float64]
BOX = box()
numbers = st.floats(-3, 3).map(lambda x: round(x, 3))
triples = st.lists(numbers, min_size=3, max_size=3)
quaternions = st.lists(numbers, min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1)
nodes = st.fixed_dictionaries(
    {}, optional={"translation": triples, "rotation": quaternions, "scale": triples}
)


def matrix_of(node: dict[str, Any]) -> Matrix:
    """A node's transform, by another library."""
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_quat(node.get("rotation", [0, 0, 0, 1])).as_matrix()
    turned[:3, :3] *= np.array(node.get("scale", [1, 1, 1]))
    turned[:3, 3] = node.get("translation", [0, 0, 0])
    return turned


def placed(matrix: Matrix) -> Matrix:
    """The box under a transform."""
    return np.asarray(BOX.vertices @ matrix[:3, :3].T + matrix[:3, 3])


def volume(vertices: Matrix, faces: npt.NDArray[np.int64]) -> float:
    """The volume that a closed surface encloses; negative if it is inside out."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


@settings(max_examples=60, deadline=None)
@given(root=nodes, child=nodes, shift=triples)
def test_transforms_are_baked(root: Any, child: Any, shift: list[float]) -> None:
    """Nested transforms and matrices multiply; nodes come in order; nothing turns inside out."""
    third = np.eye(4)
    third[:3, 3] = shift
    tree, data = scene(
        BOX,
        [
            {**root, "children": [2, 1], "mesh": 0},
            {**child, "mesh": 0},
            {"matrix": third.T.reshape(-1).tolist(), "mesh": 0},
        ],
    )
    shape = decoded(glb(tree, data))
    above = matrix_of(root)
    expected = [above, above @ third, above @ matrix_of(child)]
    found = shape.vertices.reshape(3, 8, 3)
    assert found == pytest.approx(np.stack([placed(m) for m in expected]), abs=1e-5)
    for part, (faces, matrix) in enumerate(
        zip(shape.faces.reshape(3, 12, 3), expected, strict=True)
    ):
        assert faces.min() == 8 * part
        size = 6 * abs(np.linalg.det(matrix[:3, :3]))
        assert volume(shape.vertices, faces) == pytest.approx(size, abs=1e-3)


def changed(**top: Any) -> bytes:
    """A GLB of the box with top-level entries of its tree replaced, or merged if they are dicts."""
    tree, data = scene(BOX)
    return glb({**tree, **top}, data)


def with_primitive(**entries: Any) -> dict[str, Any]:
    """Meshes of one primitive of the box with other entries."""
    primitive = {"attributes": {"POSITION": 0}, "indices": 1, **entries}
    return {"meshes": [{"primitives": [primitive]}]}


@pytest.mark.parametrize(
    ("mode", "corners", "expected"),
    [
        (5, [0, 1, 2, 3, 4], [[0, 1, 2], [1, 3, 2], [2, 3, 4]]),
        (6, [0, 1, 2, 3], [[1, 2, 0], [2, 3, 0]]),
        (5, [0, 1], []),
        (6, [0], []),
    ],
)
def test_strips_and_fans(mode: int, corners: list[int], expected: list[list[int]]) -> None:
    """Triangles of strips and fans face as section 3.7.2.1 of the specification says."""
    tree, data = scene(BOX)
    short = np.array(corners, "<u2").tobytes()
    tree["accessors"][1] |= {"componentType": 5123, "count": len(corners)}
    tree["bufferViews"][1] |= {"byteOffset": len(data), "byteLength": len(short)}
    tree["buffers"] = [{"byteLength": len(data) + len(short)}]
    shape = decoded(glb({**tree, **with_primitive(mode=mode)}, data + short))
    assert shape.faces.tolist() == expected


def test_primitives_without_indices_or_triangles() -> None:
    """Corners may come in order; points stand alone where there are no triangles; lines do not."""
    assert decoded(changed(**with_primitive(mode=0))).content == "points"
    assert reason(changed(**with_primitive(mode=1))) is Reason.NO_GEOMETRY
    plain = with_primitive()
    del plain["meshes"][0]["primitives"][0]["indices"]
    assert reason(changed(**plain)) is Reason.CORRUPT  # 8 corners are no triangles
    plain["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 0})
    plain["meshes"][0]["primitives"][0]["mode"] = 6
    assert decoded(changed(**plain)).faces[0].tolist() == [1, 2, 0]
    assert decoded(changed(**plain)).facts["asset.vertices"] == 8


def test_quantised_sparse_and_strided_positions() -> None:
    """Normalised integers are fractions; a sparse accessor replaces rows; a stride skips bytes."""
    rows = np.zeros(4, [("at", "<i2", 3), ("pad", "<i2")])
    rows["at"] = [[0, 0, 0], [32767, 0, 0], [0, -32768, 0], [16384, 0, 32767]]
    sparse = np.array([3], "<u4").tobytes() + np.array([1, 2, 3], "<i2").tobytes()
    tree = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]}],
        "accessors": [{
            "bufferView": 0, "componentType": 5122, "normalized": True, "count": 4, "type": "VEC3",
            "sparse": {
                "count": 1,
                "indices": {"bufferView": 1, "componentType": 5125},
                "values": {"bufferView": 1, "byteOffset": 4},
            },
        }],
        "bufferViews": [
            {"buffer": 0, "byteLength": 32, "byteStride": 8},
            {"buffer": 0, "byteOffset": 32, "byteLength": 10},
        ],
        "buffers": [{"byteLength": 42}],
    }  # fmt: skip
    found = decoded(glb(tree, rows.tobytes() + sparse)).vertices
    expected = [[0, 0, 0], [1, 0, 0], [0, -1, 0], [1 / 32767, 2 / 32767, 3 / 32767]]
    assert found == pytest.approx(np.array(expected), abs=1e-12)


def test_scenes_that_are_no_trees_end() -> None:
    """A cycle, a node with two parents and a scene that names one twice are corrupt, at once."""
    cycle = [{"children": [1]}, {"children": [0], "mesh": 0}]
    assert reason(changed(nodes=cycle)) is Reason.CORRUPT
    assert reason(changed(nodes=[{"children": [0]}])) is Reason.CORRUPT
    shared = [{"children": [1, 2]}, {"children": [3]}, {"children": [3]}, {"mesh": 0}]
    assert reason(changed(nodes=shared)) is Reason.CORRUPT
    assert reason(changed(scenes=[{"nodes": [0, 0]}])) is Reason.CORRUPT
    deep = [{"children": [i + 1]} for i in range(5000)] + [{"mesh": 0}]
    assert decoded(changed(nodes=deep)).facts["asset.faces"] == 12


def test_many_instances_are_counted_before_they_are_made() -> None:
    """A small file whose nodes repeat a mesh is judged by all its instances."""
    many = [{"children": list(range(1, 2001))}, *({"mesh": 0} for _ in range(2000))]
    data = changed(nodes=many)
    assert decoded(data).facts["asset.faces"] == 24_000
    assert reason(data, max_faces=23_999) is Reason.TOO_MANY_FACES
    assert reason(data, max_points=15_999) is Reason.TOO_MANY_POINTS


def accessors(**entries: Any) -> list[dict[str, Any]]:
    """The box's accessors, with entries of the positions' replaced."""
    tree, _ = scene(BOX)
    tree["accessors"][0] |= entries
    found: list[dict[str, Any]] = tree["accessors"]
    return found


BAD_TREES: dict[str, tuple[dict[str, Any], Reason]] = {
    "huge accessor": ({"accessors": accessors(count=10**11)}, Reason.TOO_MANY_POINTS),
    "long accessor": ({"accessors": accessors(count=9000)}, Reason.TRUNCATED),
    "negative accessor": ({"accessors": accessors(count=-1)}, Reason.CORRUPT),
    "huge offset": ({"accessors": accessors(byteOffset=10**15)}, Reason.TRUNCATED),
    "unknown type": ({"accessors": accessors(componentType=1)}, Reason.CORRUPT),
    "flat positions": ({"accessors": accessors(type="VEC2")}, Reason.CORRUPT),
    "no such view": ({"accessors": accessors(bufferView=7)}, Reason.CORRUPT),
    "no such mesh": ({"nodes": [{"mesh": 3}]}, Reason.CORRUPT),
    "no such node": ({"scenes": [{"nodes": [9]}]}, Reason.CORRUPT),
    "no such scene": ({"scene": 4}, Reason.CORRUPT),
    "negative node": ({"scenes": [{"nodes": [-1]}]}, Reason.CORRUPT),
    "short buffer": ({"buffers": [{"byteLength": 10**6}]}, Reason.TRUNCATED),
    "another file": ({"buffers": [{"byteLength": 9, "uri": "a.bin"}]}, Reason.UNSUPPORTED),
    "a web page": ({"buffers": [{"byteLength": 9, "uri": "http://a/b"}]}, Reason.UNSUPPORTED),
    "version 1": ({"asset": {"version": "1.0"}}, Reason.UNSUPPORTED),
    "Draco": ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, Reason.UNSUPPORTED),
    "flat matrix": ({"nodes": [{"mesh": 0, "matrix": [1, 2]}]}, Reason.CORRUPT),
    "infinite": ({"nodes": [{"mesh": 0, "scale": [1e308, 1e308, 1e308]}]}, Reason.CORRUPT),
    "no rotation": ({"nodes": [{"mesh": 0, "rotation": [0, 0, 0, 0]}]}, Reason.CORRUPT),
    "meshes of another type": ({"meshes": "none"}, Reason.CORRUPT),
    "nothing": ({"nodes": [{}]}, Reason.NO_GEOMETRY),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_wrong_trees_have_their_reasons(name: str) -> None:
    """What a tree claims or leaves out is judged without doing it."""
    entries, expected = BAD_TREES[name]
    assert reason(changed(**entries)) is expected


def test_unfilled_accessors_are_not_zeros() -> None:
    """Positions that an extension is to provide are refused where nobody provides them."""
    table = accessors()
    del table[0]["bufferView"]
    compressed = with_primitive(extensions={"KHR_draco_mesh_compression": {"bufferView": 0}})
    assert reason(changed(accessors=table, **compressed)) is Reason.UNSUPPORTED


def test_json_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep and vast JSON is refused before, or without, an end of memory or stack."""
    assert reason(b'{"asset":' + b"[" * 100_000, "a.gltf") is Reason.CORRUPT
    assert reason(b'{"asset": 12, "nodes": [] x', "a.gltf") is Reason.CORRUPT
    assert reason(b'{"asset": {"version": "2.', "a.gltf") is Reason.TRUNCATED
    monkeypatch.setattr(gltf_buffers, "MAX_JSON_VALUES", 50)
    vast = json.dumps({"asset": {"version": "2.0"}, "extras": [0] * 51}).encode()
    assert reason(vast, "a.gltf") is Reason.TOO_MANY_BYTES


def test_glb_chunks() -> None:
    """Unknown chunks are passed over; a version, an order or a length that is wrong is told."""
    data = changed()
    extra = data[:8] + struct.pack("<I", len(data) + 12) + data[12:] + b"\4\0\0\0NONE1234"
    assert decoded(extra).facts["asset.faces"] == 12
    assert reason(data[:4] + b"\1" + data[5:]) is Reason.UNSUPPORTED
    assert reason(data[:16] + b"BIN\0" + data[20:]) is Reason.CORRUPT
    assert reason(data[:-1]) is Reason.TRUNCATED


def test_buffers_inside_the_json() -> None:
    """Bad base64 is corrupt, too little of it truncated, another encoding unsupported."""
    data = gltf(*scene(BOX))
    assert decoded(data).facts["asset.faces"] == 12
    assert reason(data.replace(b"base64,AAAA", b"base64,A")) is Reason.CORRUPT
    assert reason(data.replace(b"base64,AAAA", b"base64,")) is Reason.TRUNCATED
    assert reason(data.replace(b";base64,", b";utf-8,")) is Reason.UNSUPPORTED


def twice(*, unit: str = "inch") -> bytes:
    """A 3MF of an object of two boxes, one of them moved, placed at twice its size."""
    parts = '<component objectid="1"/><component objectid="1" transform="1 0 0 0 1 0 0 0 1 5 6 7"/>'
    made = f'<object id="2"><components>{parts}</components></object>'
    item = '<item objectid="2" transform="2 0 0 0 2 0 0 0 2 100 0 0"/>'
    return threemf(model_xml(mesh_xml(BOX) + made, item, unit=unit))


def test_3mf_components_units_and_items() -> None:
    """Components nest, transforms multiply, the unit is recorded; what no item builds is left."""
    shape = decoded(twice())
    first = 2 * BOX.vertices + np.array([100, 0, 0])
    second = first + np.array([10, 12, 14])
    assert shape.vertices == pytest.approx(np.vstack([first, second]))
    assert np.array_equal(shape.faces, np.vstack([BOX.faces, BOX.faces + 8]))
    assert (shape.up_axis, shape.facts["asset.units"]) == ("z", "in")
    assert reason(threemf(model_xml(mesh_xml(BOX), ""))) is Reason.NO_GEOMETRY
    assert reason(twice(unit="league")) is Reason.CORRUPT


def test_3mf_parts_may_share_ids() -> None:
    """Objects of other parts (the production extension) are told apart by their part."""
    component = '<component objectid="1" p:path="/3D/other.model"/>'
    root = f'<object id="1"><components>{component}</components></object>'
    other = model_xml(mesh_xml(BOX), '<item objectid="1"/>')
    shape = decoded(threemf(model_xml(root), {"3D/other.model": other}))
    assert np.array_equal(shape.vertices, BOX.vertices)
    assert reason(threemf(model_xml(root))) is Reason.CORRUPT


def grown(levels: int) -> str:
    """Objects of two components each: 2^levels boxes from a few hundred bytes."""
    made = "".join(
        f'<object id="{i}"><components><component objectid="{i - 1}"/>'
        f'<component objectid="{i - 1}"/></components></object>'
        for i in range(2, levels + 2)
    )
    return mesh_xml(BOX) + made


def test_3mf_is_bounded() -> None:
    """Cycles, growth by components, bombs and document types are refused before they cost."""
    item = '<item objectid="{}"/>'
    assert decoded(threemf(model_xml(grown(3), item.format(4)))).facts["asset.faces"] == 96
    bomb = threemf(model_xml(grown(40), item.format(41)))
    assert reason(bomb) is Reason.TOO_MANY_POINTS
    assert reason(threemf(model_xml(grown(3).replace('"1"', '"4"'), item.format(4)))) is (
        Reason.CORRUPT
    )
    empty = grown(40).replace("<vertex ", "<v ").replace("<triangle ", "<t ")
    assert reason(threemf(model_xml(empty, item.format(41)))) is Reason.TOO_MANY_FACES
    padded = model_xml(mesh_xml(BOX)) + " " * 10**6
    assert reason(threemf(padded), max_asset_bytes=10**5) is Reason.TOO_MANY_BYTES
    typed = '<!DOCTYPE a [<!ENTITY b "cc">]>' + model_xml(mesh_xml(BOX))
    assert reason(threemf(typed)) is Reason.CORRUPT


def test_archives_that_are_no_3mf() -> None:
    """Another ZIP is unsupported; damage inside an archive is found by its checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "words")
    assert reason(out.getvalue()) is Reason.UNSUPPORTED
    data = twice()
    place = data.index(b"3D/3dmodel.model") + 40
    damaged = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
    assert reason(damaged) is Reason.CORRUPT
    assert reason(threemf("<model><unended>")) is Reason.CORRUPT
