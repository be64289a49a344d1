"""Scores of an encoder on views in memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipelines.judge.memory import Means, picture

from tokenmill.measures import psnr_db
from tokenmill.tokenizers import open_tokenizer
from tokenmill_pipelines.judge import Item, measure, measure_views
from tokenmill_schemas.errors import Reason

MEANS = Means()
SPEC = MEANS.spec(None)


def test_figures_are_those_of_the_views() -> None:
    """Mean, median, lowest and highest of what each view has by itself."""
    views = [picture(seed) for seed in range(5)]
    scores = measure_views(MEANS, SPEC, views)
    alone = [psnr_db(v, MEANS.decode(MEANS.encode(v[None]))[0]) for v in views]
    figure = scores.figure("psnr_db")
    assert figure is not None
    assert (figure.count, figure.median) == (5, sorted(alone)[2])
    assert figure.mean == pytest.approx(np.mean(alone)) == scores.mean("psnr_db")
    assert (figure.lowest, figure.highest) == (min(alone), max(alone))
    assert [view.values["psnr_db"] for view in scores.views] == alone
    assert math.isnan(scores.mean("iou"))
    assert [one.key for one in scores.measures] == ["psnr_db", "ssim"]


def test_bits_are_those_of_the_spec() -> None:
    """Eight bits for each of three ids of 64 pixels; packed bytes are whole."""
    scores = measure_views(MEANS, SPEC, [picture(0)])
    assert scores.bits_per_unit["packed"] == scores.bits_per_unit["stored"] == 24 / 64
    assert scores.views[0].packed_bytes == 48
    tokenizer = open_tokenizer("patch_vq")
    of_patches = measure_views(tokenizer.load(), tokenizer.spec(None), [picture(0)])
    assert of_patches.bits_per_unit["packed"] == 12 / 64
    assert of_patches.bits_per_unit["stored"] == 16 / 64
    assert of_patches.views[0].packed_bytes == 24


@settings(max_examples=25)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=6))
def test_entropy_is_bounded_by_what_there_is(levels: list[int]) -> None:
    """By the ids, by how many different ones occur, and by their number; flat views have none."""
    views = [np.full((8, 8, 3), level, np.uint8) for level in levels]
    scores = measure_views(MEANS, SPEC, views)
    use = scores.streams[0]
    assert use.used == len(set(levels))
    assert use.tokens == 3 * len(levels)
    assert 0 <= use.entropy_bits <= math.log2(use.used) + 1e-9
    assert scores.bits_per_unit["entropy"] <= scores.bits_per_unit["packed"]
    assert scores.mean("psnr_db") == 100.0


def test_a_view_that_fails_costs_no_other() -> None:
    """Its reason is kept; those that were encoded beside it count."""
    views = [Item(picture(seed), key=f"p{seed}") for seed in range(3)]
    views[1].data[0, 0, 0] = 7
    views[0].data[0, 0, 0] = views[2].data[0, 0, 0] = 8
    scores = measure_views(Means(refuses=7), SPEC, views)
    assert [view.key for view in scores.views] == ["p0", "p2"]
    assert [(f.key, f.reason) for f in scores.failures] == [("p1", str(Reason.ENCODE_FAILED))]


def test_classes_of_content_have_their_own_figures() -> None:
    """Without a class a view is unnamed."""
    views = [
        Item(picture(n), content=name) for n, name in enumerate(("photo", "text", "photo", ""))
    ]
    scores = measure_views(MEANS, SPEC, views)
    assert scores.contents == ("photo", "text", "unnamed")
    found = [scores.figure("ssim", name) for name in scores.contents]
    assert [one.count for one in found if one] == [2, 1, 1]


def test_shapes_may_differ_from_view_to_view() -> None:
    """Each is coded with its equals."""
    views = [picture(0), picture(1, 64), picture(2, 64), picture(3)]
    scores = measure_views(MEANS, SPEC, views)
    assert [view.units for view in scores.views] == [1024, 4096, 4096, 1024]


def test_clips_are_measured_frame_by_frame() -> None:
    """A clip has the mean of its frames' figures, which its whole error would not give."""
    clip = np.stack([picture(0), picture(1)])
    other = clip.copy()
    other[1] = 255 - other[1]
    found = measure("clip", clip, other)
    single = measure("image", clip[1], other[1])
    assert found["psnr_db"] == pytest.approx((100 + single["psnr_db"]) / 2)
    assert found["ssim"] == pytest.approx((1 + single["ssim"]) / 2)


def test_other_kinds_have_their_own_measure() -> None:
    """IoU of volumes, faces of meshes, distances of points; another shape of pixels is refused."""
    cells = np.zeros((4, 4, 4), bool)
    cells[0] = True
    assert measure("voxels", cells, cells) == {"iou": 1.0}
    points = np.zeros((3, 3))
    assert measure("points", points, points + np.array([0, 0, 2.0])) == {"chamfer": 2.0}
    assert measure("mesh", np.arange(9).reshape(1, 3, 3), np.zeros((0, 3, 3), int)) == {
        "shared_faces": 0.0
    }
    with pytest.raises(ValueError, match="decodes to"):
        measure("image", picture(0), picture(0, 64))
