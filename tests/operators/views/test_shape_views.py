from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tokenmill.decoders.base import Shape
from tokenmill.testing.golden import load_case
from tokenmill.testing.views3d import box, check_shape_view, cloud_of, mesh_of, sphere, torus
from tokenmill.tokenizers.filling import normals
from tokenmill.views import open_view
from tokenmill.views.normalise import turned
from tokenmill.views.sampling import farthest_points
from tokenmill_schemas.errors import AssetError, JobError, Reason

GOLDEN = Path(__file__).parents[2] / "golden"
VIEWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("voxels", {"resolution": 12}),
    ("voxels", {"resolution": 9, "fill": "solid", "normalise": "global_range"}),
    ("points", {"count": 40}),
    ("points", {"count": 30, "method": "fps", "normals": True, "measured": "points", "up": "y"}),
    ("mesh", {}),
    ("mesh", {"rule": "treemeshgpt", "bins": 512, "up": "z"}),
    ("mesh", {"rule": "amt"}),
)


def rotated(shape: Shape, up_axis: Any) -> Shape:
    """The same object stored with another axis up."""
    axes = {("z", "y"): "xz-y", ("y", "z"): "x-zy"}.get((shape.up_axis, up_axis), "xyz")
    return mesh_of(turned(shape.vertices, axes), shape.faces, up_axis)


def only(kind: str, options: dict[str, Any], shape: Shape, key: str = "key") -> Any:
    """The one view."""
    (view,) = open_view(kind, options).views(shape, key)
    return view


def placed(shape: Shape, coordinates: dict[str, Any]) -> npt.NDArray[np.float64]:
    """The vertices where ``view.*`` says that they are."""
    moved = turned(shape.vertices, coordinates["view.axes"]) - coordinates["view.center"]
    scaled: npt.NDArray[np.float64] = moved * float(coordinates["view.scale"])
    return scaled


@pytest.mark.parametrize(("kind", "options"), VIEWS)
@pytest.mark.parametrize("make", [box, torus, sphere])
def test_every_kind_keeps_the_contract(kind: str, options: dict[str, Any], make: Any) -> None:
    """Pickling, determinism, types, columns and sizes hold for closed shapes."""
    view = open_view(kind, options)
    check_shape_view(view, make())
    assert len(pickle.dumps(view)) < 1000
    assert view.identity.keys() >= {"view", *options}


@pytest.mark.parametrize(("kind", "options"), VIEWS)
def test_coordinates_say_where_the_shape_went(kind: str, options: dict[str, Any]) -> None:
    """Turned, less the centre, times the scale: all views of a y-up torus lie in their box."""
    shape = mesh_of(torus().vertices * 3 + [9.0, -4.0, 100.0], torus().faces, "y")
    view = only(kind, options, shape)
    where = placed(shape, view.coordinates)
    if kind == "points":
        nearest = np.linalg.norm(view.data[:, None, :3] - where[None], axis=2).min(axis=1)
        assert nearest.max() < 0.25
    elif kind == "mesh":
        low = -1.0 if view.coordinates["view.name"] == "meshxl" else -0.5
        bins = options.get("bins", 128)
        middle = low + (view.data.reshape(-1, 3) + 0.5) / bins * -2 * low
        corners = where[shape.faces].reshape(-1, 3)
        away = np.abs(middle[:, None] - corners[None]).max(axis=2).min(axis=1)
        assert away.max() < -2 * low / bins
    else:
        side = options["resolution"]
        cells = np.clip(np.floor((where + 0.5) * side), 0, side - 1).astype(int)
        assert view.data[tuple(cells.T)].all()


@pytest.mark.parametrize(("kind", "options"), VIEWS)
def test_up_is_up_whichever_axis_was_stored(kind: str, options: dict[str, Any]) -> None:
    """One object stored y-up and z-up gives one view where the view asks for an axis."""
    upright = mesh_of(torus().vertices * [1.0, 0.7, 0.5], torus().faces, "z")
    lying = rotated(upright, "y")
    choice = options | {"up": "z", "normalise": "longest_side"}
    if kind == "mesh":
        choice = options | {"up": "z"}
    one, other = only(kind, choice, upright), only(kind, choice, lying)
    assert (one.coordinates["view.axes"], other.coordinates["view.axes"]) == ("xyz", "x-zy")
    if kind == "points":
        assert np.allclose(one.data, other.data, atol=1e-6)
    else:
        assert np.array_equal(one.data, other.data)


def test_formats_without_a_convention_may_be_told_one() -> None:
    """``assume_up`` turns what has no up axis, and nothing that has."""
    nameless, known = torus(), mesh_of(torus().vertices, torus().faces, "z")
    options = {"resolution": 8, "assume_up": "y"}
    assert only("voxels", options, nameless).coordinates["view.axes"] == "x-zy"
    assert only("voxels", options, known).coordinates["view.axes"] == "xyz"


@pytest.mark.parametrize("name", ["full-mesh-torus8x6", "small-mesh-torus8x6"])
def test_voxels_are_those_of_shapellm(name: str) -> None:
    """The occupancy that the official preparation gives, rotation and all, cell by cell."""
    case = load_case(GOLDEN / "shapellm-3dvqvae" / f"{name}.json")
    shape = mesh_of(case["input"]["mesh"]["vertices"], case["input"]["mesh"]["faces"], "y")
    view = only("voxels", {"normalise": "global_range"}, shape)
    packed = np.frombuffer(base64.b64decode(case["occupancy_packbits_xyz"]), np.uint8)
    expected = np.unpackbits(packed).reshape(64, 64, 64).astype(bool)
    assert int(view.data.sum()) == case["occupied"]
    assert np.array_equal(view.data, expected)
    assert view.coordinates["view.axes"] == "x-zy"


def test_points_and_groups_are_those_of_point_bert() -> None:
    """Its normalisation of a cloud, and its farthest points in float32 from the first on."""
    case = load_case(GOLDEN / "point-bert-dvae" / "1024pts.json")
    steps = normals(case["input"]["name"], tuple(case["input"]["shape"])).astype(np.float64)
    for cloud, expected in zip(np.cumsum(steps, axis=1), case["fps_index"], strict=True):
        options = {"count": 1024, "measured": "points", "normalise": "radius", "extent": 2.0}
        drawn = only("points", options, cloud_of(cloud)).data
        middle = (cloud.min(axis=0) + cloud.max(axis=0)) / 2
        largest = np.sqrt(((cloud - middle) ** 2).sum(axis=1).max())
        official = ((cloud - middle) / largest).astype(np.float32)
        assert np.array_equal(np.unique(drawn, axis=0), np.unique(official, axis=0))
        eligible = (official**2).sum(axis=1) > 1e-3
        assert farthest_points(official, 64, eligible=eligible).tolist() == expected


def golden_meshes(folder: str) -> list[Any]:
    """(mesh, bins, record) of a golden file of sequences."""
    case = load_case(GOLDEN / folder / "sequences.json")
    found = []
    for name, record in case["ids"].items():
        mesh, _, bits = name.partition("@")
        shape = mesh_of(case["meshes"][mesh]["vertices"], case["meshes"][mesh]["faces"])
        found.append(pytest.param(shape, 2 ** int(bits[:1] or 7), record, id=name))
    return found


@pytest.mark.parametrize(("shape", "bins", "record"), golden_meshes("meshxl"))
def test_meshxl_meshes_are_its_ids(shape: Shape, bins: int, record: dict[str, Any]) -> None:
    """Nine ids a face, faces and corners as stored, ties half to even."""
    soup = only("mesh", {"rule": "meshxl", "bins": bins}, shape).data
    assert soup.reshape(-1).tolist() == record["ids"]


@pytest.mark.parametrize(
    ("rule", "shape", "bins", "record"),
    [
        pytest.param(rule, *case.values, id=f"{rule}-{case.id}")
        for rule, folder in (("treemeshgpt", "treemeshgpt"), ("amt", "meshanything-v2-amt"))
        for case in golden_meshes(folder)
    ],
)
def test_cleaned_meshes_have_the_official_vertices_and_faces(
    rule: str, shape: Shape, bins: int, record: dict[str, Any]
) -> None:
    """Sorted by z, y, x the vertices are the recorded ones, and so many faces stay."""
    soup = only("mesh", {"rule": rule, "bins": bins}, shape).data
    points = np.unique(soup.reshape(-1, 3)[:, ::-1], axis=0)[:, ::-1]
    assert points.tolist() == record.get("vertices", record.get("sorted_vertices"))
    assert len(soup) == record.get("n_faces", record.get("n_faces_after"))
    if rule == "amt":
        numbers = {tuple(point): i for i, point in enumerate(points.tolist())}
        faces = [sorted(numbers[tuple(corner)] for corner in face) for face in soup.tolist()]
        assert sorted(faces) == record["sorted_faces"]


def test_each_rule_drops_what_its_authors_drop() -> None:
    """Collapsed, flat, repeated and reversed faces: what stays, in stored order."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0, 0], [1e-4, 0, 0]])
    good, turned_round, reverse = [0, 1, 2], [1, 2, 0], [0, 2, 1]
    flat, collapsed = [0, 3, 1], [0, 4, 2]
    shape = mesh_of(corners, [flat, good, collapsed, turned_round, reverse])
    sizes = {rule: only("mesh", {"rule": rule}, shape).data for rule in ("meshxl", "amt")}
    tree = only("mesh", {"rule": "treemeshgpt"}, shape).data
    assert {rule: len(soup) for rule, soup in sizes.items()} == {"meshxl": 5, "amt": 1}
    assert len(tree) == 3  # flat, good and reverse: it looks at corners alone, and at their sense
    assert np.array_equal(sizes["amt"][0], sizes["meshxl"][1])
    assert [face.tolist() for face in tree][1][0] == tree[2].tolist()[0]


def test_unused_vertices_count_for_nothing() -> None:
    """A stray vertex far away changes neither the measure nor a view."""
    far = [[1e6, 1e6, 1e6]]
    stray = mesh_of(np.vstack([torus().vertices, far]), torus().faces)
    stray_first = mesh_of(np.vstack([far, torus().vertices]), torus().faces + 1)
    for kind, options in VIEWS:
        plain = only(kind, options, torus())
        for other in (stray, stray_first):
            assert np.array_equal(only(kind, options, other).data, plain.data)


def test_solid_fills_a_closed_shape_and_extent_leaves_a_border() -> None:
    """A torus fills up but for its hole; at 0.5 the outer cells stay empty."""
    surface = only("voxels", {"resolution": 32}, torus()).data
    solid = only("voxels", {"resolution": 32, "fill": "solid"}, torus()).data
    assert surface[~solid].sum() == 0
    assert solid.sum() > 1.2 * surface.sum()
    assert not solid[16, 16, 16]
    small = only("voxels", {"resolution": 32, "extent": 0.5}, torus()).data
    assert small.any(axis=(1, 2)).nonzero()[0].tolist() == list(range(7, 25))


def test_clouds_and_splats_give_voxels_and_points() -> None:
    """A cloud occupies the cells of its points and gives a subset of them, normals included."""
    rng = np.random.default_rng(0)
    stated = rng.normal(size=(60, 3))
    cloud = cloud_of(rng.normal(size=(60, 3)), stated)
    assert 30 < check_shape_view(open_view("voxels", {"resolution": 16}), cloud)[0].data.sum() <= 60
    options = {"count": 60, "normals": True, "normalise": "none", "extent": 1.0}
    (view,) = check_shape_view(open_view("points", options), cloud)
    order = np.argsort(view.data[:, 0])
    back = np.argsort(cloud.vertices[:, 0])
    assert np.array_equal(view.data[order, :3], cloud.vertices[back].astype(np.float32))
    unit = stated / np.linalg.norm(stated, axis=1, keepdims=True)
    assert np.allclose(view.data[order, 3:], unit[back], atol=1e-6)
    splat = Shape("gaussians", cloud.vertices, cloud.faces, {})
    assert only("points", {"count": 10}, splat).data.shape == (10, 3)


def test_normals_are_those_of_the_faces_turned_along() -> None:
    """On a y-up box made z-up, each point's normal is the axis whose wall it lies on."""
    shape = mesh_of(box().vertices, box().faces, "y")
    options = {"count": 64, "normals": True, "up": "z", "normalise": "longest_side", "extent": 1.0}
    data = only("points", options, shape).data
    wall = np.where(np.isclose(np.abs(data[:, :3]), 0.5), np.sign(data[:, :3]), 0)
    assert np.array_equal(wall, data[:, 3:])


def test_farthest_points_spread_more_than_random_ones() -> None:
    """The nearest two of 100 farthest points are further apart than of 100 random ones."""

    def closest(method: str) -> float:
        data = only("points", {"count": 100, "method": method}, torus()).data
        away = np.linalg.norm(data[:, None] - data[None], axis=2)
        return float(away[~np.eye(100, dtype=bool)].min())

    assert closest("fps") > 3 * closest("random")


def test_points_depend_on_seed_and_key_alone() -> None:
    """Another key or seed draws other points, and the seed is in the coordinates."""
    first = only("points", {"count": 9}, torus(), "a")
    for options, key in (({"count": 9, "seed": 1}, "a"), ({"count": 9}, "b")):
        assert not (only("points", options, torus(), key).data == first.data).any()
    assert first.coordinates["view.seed"] == 0
    assert only("mesh", {}, torus()).coordinates["view.seed"] == -1


FLAT = mesh_of([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])
CLOUD = cloud_of([[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("kind", "options", "shape", "reason"),
    [
        ("voxels", {}, mesh_of([], []), Reason.NO_GEOMETRY),
        ("voxels", {}, cloud_of([]), Reason.NO_GEOMETRY),
        ("voxels", {"normalise": "none"}, mesh_of(box().vertices + 9, box().faces), "no_geometry"),
        ("points", {}, mesh_of([[0, 0, 0]], []), Reason.NO_GEOMETRY),
        ("points", {"count": 5}, FLAT, Reason.NO_GEOMETRY),
        ("points", {"count": 3}, CLOUD, Reason.TOO_SMALL),
        ("points", {"count": 2, "normals": True}, CLOUD, Reason.UNSUPPORTED),
        ("points", {}, mesh_of(box().vertices * 1e40, box().faces), Reason.UNSUPPORTED),
        ("mesh", {}, CLOUD, Reason.OTHER_CONTENT),
        ("mesh", {}, mesh_of(np.ones((3, 3)), [[0, 1, 2]]), Reason.NO_GEOMETRY),
        ("mesh", {"rule": "amt"}, FLAT, Reason.NO_GEOMETRY),
        ("mesh", {"max_faces": 11}, box(), Reason.TOO_MANY_FACES),
        ("mesh", {"min_faces": 13}, box(), Reason.TOO_SMALL),
    ],
)
def test_what_gives_no_view_has_a_reason(
    kind: str, options: dict[str, Any], shape: Shape, reason: str
) -> None:
    """Nothing there, too little, too much, and what a view does not read."""
    with pytest.raises(AssetError) as caught:
        only(kind, options, shape)
    assert (caught.value.reason, caught.value.stage) == (reason, "view")


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("voxels", {"resolution": 0}, "resolution must be between 1 and 512"),
        ("voxels", {"extent": 0.0}, "extent must be a positive number"),
        ("voxels", {"fill": "half"}, "surface"),
        ("points", {"count": 0}, "count must be between"),
        ("points", {"oversample": 0}, "oversample must be between"),
        ("mesh", {"bins": 1}, "bins must be between 2"),
        ("mesh", {"max_faces": 10, "min_faces": 11}, "min_faces must be between 1 and 10"),
        ("mesh", {"rule": "bpt"}, "meshxl"),
    ],
)
def test_bad_options_name_what_to_mend(kind: str, options: dict[str, Any], text: str) -> None:
    """Every option is checked when the view is opened."""
    with pytest.raises(JobError, match=text):
        open_view(kind, options)
