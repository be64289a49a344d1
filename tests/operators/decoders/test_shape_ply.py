from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.decoders.shape_cases import decoded, reason

from tokenmill.decoders.ply import splat_names
from tokenmill.testing.shape_files import ply, ply_header, splat_ply
from tokenmill.testing.shapes import box, splat_values
from tokenmill_schemas.errors import Reason

ORDERS = ("", "<", ">")
XYZ = tuple(f"property float {axis}" for axis in "xyz")
polygons = st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=8)


def mixed(order: str, faces: list[list[int]]) -> bytes:
    """A file of 8 points, then edges, then polygons of any size between two other properties."""
    head = ply_header(
        order,
        "comment made for a test",
        "element vertex 8",
        *("property uchar red", *XYZ, "property list ushort double weights"),
        "element edge 2",
        *("property int vertex1", "property int vertex2"),
        f"element face {len(faces)}",
        *("property short flags", "property list int uint vertex_index", "property float area"),
    )
    points = [(255, i, 2 * i, -i, [0.5] * (i % 3)) for i in range(8)]
    if not order:
        rows = [f"{r} {x} {y} {z} {len(w)} {' '.join(map(str, w))}" for r, x, y, z, w in points]
        rows += ["0 1", "1 2"]
        rows += [f"-7 {len(f)} {' '.join(map(str, f))} 1.5" for f in faces]
        return head + "\n".join(rows).encode()
    body = b"".join(
        struct.pack(f"{order}B3fH{len(w)}d", r, x, y, z, len(w), *w) for r, x, y, z, w in points
    )
    body += struct.pack(f"{order}4i", 0, 1, 1, 2)
    return (
        head
        + body
        + b"".join(struct.pack(f"{order}hi{len(f)}If", -7, len(f), *f, 1.5) for f in faces)
    )


def fans(faces: list[list[int]]) -> list[list[int]]:
    """The triangles of polygons, written plainly."""
    return [[f[0], f[i], f[i + 1]] for f in faces for i in range(1, len(f) - 1)]


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=60, deadline=None)
@given(faces=polygons)
def test_any_rows_are_read(order: str, faces: list[list[int]]) -> None:
    """Lists of any length and type, unknown properties and elements, in all three encodings."""
    shape = decoded(mixed(order, faces))
    assert shape.vertices.tolist() == [[i, 2 * i, -i] for i in range(8)]
    assert shape.faces.tolist() == fans(faces)
    assert shape.content == ("mesh" if fans(faces) else "points")


@pytest.mark.parametrize("order", ORDERS)
def test_lists_of_wrong_length_are_refused(order: str) -> None:
    """A negative length is corrupt, one beyond the file is truncated."""
    good = mixed(order, [[0, 1, 2], [0, 1, 2, 3]])
    bad = {"": (b" 4 0 1", b" -4 0 1"), "<": (b"\4\0\0\0\0", b"\xfc\xff\xff\xff\0")}
    old, new = bad.get(order, (b"\0\0\0\4\0", b"\xff\xff\xff\xfc\0"))
    assert good.count(old) == 1
    assert reason(good.replace(old, new)) is Reason.CORRUPT
    many = {"": b" 9 0 1", "<": b"\x7f\0\0\0\0"}.get(order, b"\0\0\0\x7f\0")
    assert reason(good.replace(old, many)) is Reason.TRUNCATED


def test_text_has_the_types_of_its_header() -> None:
    """A text's float is a float32, as in the binary form, and an integer is in its range."""
    exact = decoded(ply(box((0.1, 0.2, 0.3)), "", kind="double"))
    rounded = decoded(ply(box((0.1, 0.2, 0.3)), "", kind="float"))
    binary = decoded(ply(box((0.1, 0.2, 0.3)), "<"))
    assert np.array_equal(rounded.vertices, binary.vertices)
    assert not np.array_equal(rounded.vertices, exact.vertices)
    head = ply_header("", "element vertex 1", *XYZ, "property uchar red")
    assert decoded(head + b"1 2 3 255").vertices.tolist() == [[1, 2, 3]]
    assert reason(head + b"1 2 3 256") is Reason.CORRUPT
    assert reason(head + b"1 2 1e39 25\n") is Reason.CORRUPT


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_line_ends_of_the_header(ending: bytes) -> None:
    """Headers end their lines as any system does, also before binary rows."""
    head, rows = ply(box()).split(b"end_header\n")
    data = head.replace(b"\n", ending) + b"end_header" + ending + rows
    assert np.array_equal(decoded(data).vertices, box().vertices)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["element vertex -3", *XYZ], Reason.CORRUPT),
        (["element vertex 3.5", *XYZ], Reason.CORRUPT),
        (["element vertex 1", "property quad x"], Reason.CORRUPT),
        (["property float x"], Reason.CORRUPT),
        (["element vertex 1", "property list float int x"], Reason.CORRUPT),
        (["element vertex 1", *XYZ, "property float x"], Reason.CORRUPT),
        (["element vertex 1", *XYZ[:2]], Reason.CORRUPT),
        (
            ["element vertex 1", *XYZ, "element face 1", "property int vertex_indices"],
            Reason.CORRUPT,
        ),
        (["element vertex 1", *XYZ, "element vertex 1", *XYZ], Reason.CORRUPT),
        (["element vertex 0", *XYZ], Reason.NO_GEOMETRY),
        (
            ["element dust 99999999999", "property char x", "element vertex 1", *XYZ],
            Reason.TRUNCATED,
        ),
        (["element vertex 9", *XYZ], Reason.TRUNCATED),
        (
            ["element vertex 1", *XYZ, "element tristrips 1", "property list int int i"],
            Reason.UNSUPPORTED,
        ),
        (["element vertex 1", "property uint packed_position"], Reason.UNSUPPORTED),
        (["nonsense"], Reason.CORRUPT),
    ],
)
def test_headers_that_lie(lines: list[str], expected: Reason) -> None:
    """Each kind of wrong header has its reason."""
    assert reason(ply_header("<", *lines) + bytes(16)) is expected


def test_headers_without_an_end() -> None:
    """A cut header is truncated; a megabyte without its end is none; a format must be known."""
    assert reason(b"ply\nformat ascii 1.0\nelement ver") is Reason.TRUNCATED
    assert reason(b"ply\nformat ascii 1.0\n" + b"comment\n" * 200_000) is Reason.CORRUPT
    assert reason(b"ply\nformat packed 1.0\nelement vertex 0\nend_header\n") is Reason.UNSUPPORTED
    assert reason(b"ply\nelement vertex 0\nend_header\n") is Reason.CORRUPT


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("degree", range(4))
def test_splats_come_out_in_one_order(order: str, degree: int) -> None:
    """Attributes in any order, normals or none, and unknown ones: the same splat."""
    values = splat_values(20, degree)
    usual = decoded(splat_ply(values, order))
    names = ["x", "y", "z", *splat_names(degree)]
    rng = np.random.default_rng(degree)
    shuffled = [str(name) for name in rng.permutation([*names, "label", "nx"])]
    for shape in (usual, decoded(splat_ply(values, order, names=shuffled))):
        assert shape.content == "gaussians"
        assert shape.attribute_names == splat_names(degree)
        assert shape.attributes is not None
        assert np.array_equal(shape.vertices, values[:, :3])
        assert np.array_equal(shape.attributes, values[:, 3:])
        assert (shape.facts["asset.faces"], shape.facts["asset.vertices"]) == (0, 20)


def test_what_is_no_splat() -> None:
    """Some of a splat's attributes make points; harmonics of no degree and NaN are corrupt."""
    values = splat_values(5)
    names = ["x", "y", "z", *splat_names(0)]
    some = decoded(splat_ply(values, names=names[:-1]))
    assert (some.content, some.attributes) == ("points", None)
    assert reason(splat_ply(values, names=[*names, "f_rest_0"])) is Reason.CORRUPT
    odd = [f"f_rest_{2 * i}" for i in range(9)]
    assert reason(splat_ply(values, names=[*names, *odd])) is Reason.CORRUPT
    values[2, 7] = np.nan
    assert reason(splat_ply(values)) is Reason.CORRUPT
    normals = decoded(splat_ply(splat_values(5), names=["x", "y", "z", "nx", "ny", "nz"]))
    assert normals.normals is not None
    assert normals.normals.shape == (5, 3)
