"""The view that reads each modality by a rule of its own."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.decoders.base import Picture
from tokenmill.plugins import open_operator
from tokenmill.testing.pictures import noise
from tokenmill.testing.shapes import box
from tokenmill.testing.videos import MemoryVideo
from tokenmill.testing.views import check_clips, check_view
from tokenmill.views.base import View, ViewOf
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError

CROP = {"kind": "center_crop", "size": 32, "rule": "bicubic"}
CLIPS = {"kind": "clips", "size": 32, "rule": "bicubic", "fps": 5, "frames": 4}
FRAMES = {"kind": "frames", "size": 32, "rule": "bicubic", "fps": 5}
VOXELS = {"kind": "voxels", "resolution": 16}


def view_of(**tables: Any) -> View:
    """The view as a job's ``[view]`` makes it."""
    view: View = open_operator("tokenmill.views", "by_modality", tables, path="view")
    return view


def alone(table: dict[str, Any]) -> View:
    """One of its rules by itself."""
    options = dict(table)
    view: View = open_operator("tokenmill.views", options.pop("kind"), options, path="view")
    return view


def picture() -> Picture:
    """A picture of noise."""
    return Picture(noise(size=(50, 40), seed=1), {"asset.uri": "mem://picture"})


def video() -> MemoryVideo:
    """Three seconds of noise."""
    return MemoryVideo(range(0, 3000, 100))


def read(view: View, media: Any) -> list[ViewOf]:
    """All views of one asset."""
    return list(view.views(media, "key"))


def test_each_asset_is_read_by_the_rule_of_its_modality() -> None:
    """Data and coordinates are those of the rule alone."""
    view = view_of(images=CROP, videos=FRAMES)
    for media, rule in ((picture, CROP), (video, FRAMES)):
        ours, theirs = read(view, media()), read(alone(rule), media())
        assert len(ours) == len(theirs) >= 1
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one.data, other.data)
            assert one.coordinates == other.coordinates
    assert (view.gives, view.shape, view.modalities) == ("image", (32, 32), ("image", "video"))


def test_a_picture_beside_clips_is_a_clip_of_one_frame() -> None:
    """Its pixels are those of the picture; how many frames there are varies."""
    view = view_of(images=CROP, videos=CLIPS)
    (one,) = read(view, picture())
    (same,) = read(alone(CROP), picture())
    assert one.data.shape == (1, 32, 32, 3)
    assert np.array_equal(one.data[0], same.data)
    assert {clip.data.shape for clip in read(view, video())} == {(4, 32, 32, 3)}
    assert (view.gives, view.shape) == ("clip", (None, 32, 32))
    assert view_of(images=CROP, videos={**CLIPS, "frames": 1}).shape == (1, 32, 32)
    assert view_of(images={**CROP, "size": 16}, videos=CLIPS).shape == (None, None, None)
    assert view_of(images={"kind": "native"}, videos=CLIPS).shape is None


def test_pictures_without_clips_stay_pictures() -> None:
    """Nothing is stacked where all rules give images."""
    (one,) = read(view_of(images=CROP), picture())
    assert one.data.shape == (32, 32, 3)


def test_columns_are_the_union_and_null_where_a_rule_has_none() -> None:
    """Rows of both rules fit into it; shared columns stay required."""
    view = view_of(images=CROP, videos=CLIPS)
    columns = view.columns()
    assert set(columns.names) == set(alone(CROP).columns().names) | set(
        alone(CLIPS).columns().names
    )
    nullable = {column.name for column in columns if column.nullable}
    assert nullable == {"view.start_s", "view.end_s", "view.fps", "view.shot", "view.pts"}
    rows = [each.coordinates for media in (picture(), video()) for each in read(view, media)]
    table = pa.Table.from_pylist(rows, schema=columns)
    table.validate(full=True)
    assert table.column("view.pts").is_null().to_pylist()[:2] == [True, False]
    assert view_of(videos=CLIPS).columns() == alone(CLIPS).columns()


def test_shapes_have_a_rule_as_well() -> None:
    """Voxels by themselves, under the key ``shapes``."""
    view = view_of(shapes=VOXELS)
    (one,) = read(view, box().shape())
    (same,) = read(alone(VOXELS), box().shape())
    assert np.array_equal(one.data, same.data)
    assert (view.gives, view.shape, view.modalities) == ("voxels", (16, 16, 16), ("shape",))


def test_it_keeps_the_contract_of_views() -> None:
    """As a view of pictures and as one of videos."""
    view = view_of(images=CROP, videos=FRAMES)
    check_view(view, picture())
    check_clips(view_of(images=CROP, videos=CLIPS), video)


def test_identity_has_the_rules_and_changes_with_each() -> None:
    """What is left out is not in it; a pickled copy has the same."""
    views = [
        view_of(images=CROP),
        view_of(videos=CLIPS),
        view_of(images=CROP, videos=CLIPS),
        view_of(images={**CROP, "size": 16}, videos=CLIPS),
        view_of(images=CROP, videos={**CLIPS, "frames": 8}),
        view_of(shapes=VOXELS),
    ]
    assert len({canonical_json(view.identity) for view in views}) == len(views)
    for view in views:
        copy = pickle.loads(pickle.dumps(view))
        assert copy == view
        assert copy.identity == view.identity
        assert copy.modalities == view.modalities


@pytest.mark.parametrize(
    ("tables", "path", "text"),
    [
        ({}, "view", "at least one of images, videos, shapes"),
        ({"pictures": CROP}, "view.pictures", "unknown key"),
        ({"images": {"size": 32}}, "view.images.kind", "is required"),
        ({"images": {"kind": 3}}, "view.images.kind", "must be str, got 3"),
        ({"images": {"kind": "center_crp"}}, "view.images.kind", "did you mean 'center_crop'"),
        ({"videos": {**CLIPS, "fsp": 1}}, "view.videos.fsp", "did you mean 'fps'"),
        ({"shapes": {**VOXELS, "resolution": "x"}}, "view.shapes.resolution", "must be int"),
        ({"images": {**CROP, "size": -1}}, "view.images", "size must be"),
        ({"images": CLIPS}, "view.images.kind", "'clips' reads video, no image"),
        ({"videos": CROP}, "view.videos.kind", "'center_crop' reads image, no video"),
        ({"images": CROP, "shapes": VOXELS}, "view", "different kinds: image, voxels"),
        ({"videos": CLIPS, "shapes": VOXELS}, "view", "different kinds: clip, voxels"),
    ],
)
def test_what_is_wrong_is_named_by_its_path_in_the_job(
    tables: dict[str, Any], path: str, text: str
) -> None:
    """Down to the key of the nested table, once."""
    with pytest.raises(JobError, match=text) as caught:
        view_of(**tables)
    assert caught.value.path == path
    assert str(caught.value).count(f"{path}: ") == 1
