from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.plugins import find, kinds
from tokenmill.testing.views import check_view
from tokenmill.views import open_view
from tokenmill.views.aspect_buckets import AspectBuckets, bucket, lost, nearest
from tokenmill.views.draws import Draws
from tokenmill.views.native import native_size
from tokenmill.views.random_crops import RandomCrops
from tokenmill.views.resize import Fit, Rule, apply, cut, fit, source_box
from tokenmill_schemas.errors import AssetError, JobError, Reason

RULES: tuple[Rule, ...] = (
    "adm", "bicubic", "bilinear", "lanczos", "var", "unitok",
    "squash_bicubic", "squash_bilinear", "cover", "taming",
)  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "aspect_buckets": {"area": 4096},
    "center_crop": {"size": 32},
    "center_flip": {"size": 32},
    "native": {"max_side": 64},
    "random_crops": {"size": 32, "count": 5},
    "smart_resize": {"min_pixels": 1024, "max_pixels": 4096, "max_aspect": 10.0},
    "ten_crop": {"size": 32, "ranges": [1.1, 1.5]},
}
sides = st.integers(1, 400)
sizes = st.tuples(sides, sides)


def gradient(width: int, height: int) -> Picture:
    """A picture whose red and green are the column and row, scaled to 0..255."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([255 * x, 255 * y, 0 * x], axis=-1)
    return Picture(Image.fromarray(np.round(pixels).astype(np.uint8)), {"asset.uri": "mem://a"})


def noise(width: int, height: int) -> Picture:
    """A picture without symmetry."""
    rng = np.random.default_rng(0)
    return Picture(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), {})


def image_kinds() -> list[str]:
    """Return the kinds of views that read pictures and nothing else."""
    package = "tokenmill.views"
    found = {kind: find(package, kind, path="").modalities for kind in kinds(package)}
    return [kind for kind, modalities in found.items() if modalities == ("image",)]


@pytest.mark.parametrize("kind", image_kinds())
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (640, 480), (64, 64), (33, 300)])
def test_every_kind_keeps_the_contract(kind: str, size: tuple[int, int]) -> None:
    """Pickling, determinism, sizes, boxes and columns hold for every kind that is found."""
    check_view(open_view(kind, SMALL[kind]), noise(*size))


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_the_box_is_where_the_pixels_come_from(kind: str) -> None:
    """On a gradient, the mean of a view is the middle of its box, and flips run backwards."""
    picture = gradient(320, 256)
    for view in open_view(kind, SMALL[kind]).views(picture, "key"):
        left, top, right, bottom = view.coordinates["view.box"]
        red, green = view.data[..., 0].astype(float), view.data[..., 1].astype(float)
        assert abs(red.mean() - 255 * (left + right) / 2 / 320) < 1.5
        assert abs(green.mean() - 255 * (top + bottom) / 2 / 256) < 1.5
        width = 255 * (right - left) / 320
        step = red[:, -1].mean() - red[:, 0].mean()
        assert (step < 0) == view.coordinates["view.flip"]
        assert abs(abs(step) - width * (1 - 1 / view.data.shape[1])) < 4


@given(st.sampled_from(RULES), st.integers(1, 96), sizes)
def test_a_fit_gives_its_target_and_lies_in_the_source(
    rule: Rule, target: int, source: tuple[int, int]
) -> None:
    """Every rule crops exactly the target, inside what it resized to, inside the source."""
    how = fit(rule, (target, target), source)
    left, top, right, bottom = how.crop
    width, height = how.steps[-1][0] if how.steps else source
    assert (right - left, bottom - top) == (target, target)
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    box = source_box(how, source)
    assert -1e-6 <= box[0] < box[2] <= source[0] + 1e-6
    assert -1e-6 <= box[1] < box[3] <= source[1] + 1e-6


@given(st.sampled_from([r for r in RULES if not r.startswith("squash")]), sizes)
def test_fits_that_keep_the_ratio_lose_only_one_axis(rule: Rule, source: tuple[int, int]) -> None:
    """A crop touches both edges of the short side, but for the 1.125x rules."""
    how = fit(rule, (32, 32), source)
    box = source_box(how, source)
    short = 0 if source[0] <= source[1] else 1
    covered = (box[short + 2] - box[short]) / source[short]
    expected = 32 / 36 if rule in ("var", "unitok") else 1
    assert covered == pytest.approx(expected, abs=1e-6)


@given(sizes)
def test_squashing_keeps_the_whole_picture(source: tuple[int, int]) -> None:
    """The box of a squash is the source."""
    how = fit("squash_bicubic", (40, 24), source)
    assert source_box(how, source) == pytest.approx((0, 0, *source))


def test_only_squash_and_cover_know_other_shapes_than_squares() -> None:
    """A size of two numbers is refused for square rules when the view is opened."""
    assert open_view("center_crop", {"size": [32, 48], "rule": "cover"}).shape == (32, 48)
    view = check_view(open_view("center_crop", {"size": [32, 48], "rule": "cover"}), noise(90, 70))
    assert view[0].data.shape == (32, 48, 3)
    with pytest.raises(JobError, match=r"^view: rule 'adm' gives squares, not 48x32"):
        open_view("center_crop", {"size": [32, 48]})


@pytest.mark.parametrize("size", [0, -1, True, [1, 2, 3], "256", [256, 0], 2.5])
def test_sizes_are_checked(size: object) -> None:
    """Anything but a positive side or a pair of them is a job error."""
    with pytest.raises(JobError, match="size must be a positive integer"):
        open_view("center_crop", {"size": size})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("center_crop", {"rulle": "adm"}, r"^view\.rulle: unknown key; did you mean 'rule'"),
        ("center_crop", {"rule": "admm"}, r"^view\.rule: is 'admm'; did you mean 'adm'"),
        ("centre_crop", {}, "did you mean 'center_crop'"),
        ("ten_crop", {"ranges": []}, "one or more numbers >= 1"),
        ("ten_crop", {"ranges": [0.9]}, "one or more numbers >= 1"),
        ("random_crops", {"count": 0}, "count must be positive"),
        ("random_crops", {"scale": [0.5, 0.2]}, "smallest, largest"),
        ("random_crops", {"scale": [0.5, 1.2]}, "at most 1"),
        ("aspect_buckets", {"ratios": []}, "give ratios or buckets"),
        ("native", {"multiple": 16, "max_side": 8}, "max_side 8 is below multiple 16"),
    ],
)
def test_bad_options_name_what_to_mend(kind: str, options: dict[str, Any], message: str) -> None:
    """Every option is checked when the view is opened."""
    with pytest.raises(JobError, match=message):
        open_view(kind, options)


@pytest.mark.parametrize("kind", sorted(SMALL.keys() - {"smart_resize"}))
def test_small_pictures_are_filtered_on_request(kind: str) -> None:
    """A side below min_side raises too_small with the asset's uri and the stage."""
    view = open_view(kind, SMALL[kind] | {"min_side": 50})
    assert list(view.views(gradient(50, 60), "k"))
    with pytest.raises(AssetError, match="49x60 has a side below min_side = 50") as caught:
        list(view.views(gradient(49, 60), "k"))
    assert caught.value.reason is Reason.TOO_SMALL
    assert (caught.value.uri, caught.value.stage) == ("mem://a", "view")


def test_long_thin_pictures_do_not_blow_up() -> None:
    """Resizing one pixel by 100,000 to a short side of 256 would take 20 GB; it is refused."""
    with pytest.raises(AssetError, match="256x25600000") as caught:
        list(open_view("center_crop").views(gradient(1, 100_000), "k"))
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


def test_ten_crops_of_the_mirror_are_crops_of_the_mirrored_picture() -> None:
    """The last five are the first five of the picture turned left to right beforehand."""
    view = open_view("ten_crop", {"size": 40, "rule": "bilinear"})
    picture = noise(44, 44)
    turned = Picture(picture.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {})
    upright, mirror = list(view.views(picture, "")), list(view.views(turned, ""))
    for i in range(5):
        assert np.array_equal(upright[5 + i].data, mirror[i].data)
    names = [v.coordinates["view.name"] for v in upright]
    assert names[:6] == ["1.1/tl", "1.1/tr", "1.1/bl", "1.1/br", "1.1/center", "1.1/mirror_tl"]
    assert upright[5].coordinates["view.box"] == upright[1].coordinates["view.box"]


def test_ten_crop_takes_both_ranges_in_order() -> None:
    """Two ranges give twenty views with the ranges in their names."""
    view = open_view("ten_crop", {"size": 32, "ranges": [1.05, 1.1]})
    names = [v.coordinates["view.name"] for v in view.views(noise(80, 60), "")]
    assert len(names) == 20
    assert (names[0], names[10]) == ("1.05/tl", "1.1/tl")


def test_random_crops_depend_on_seed_and_key_alone() -> None:
    """Another key or seed gives other crops; more crops leave the first ones alone."""
    picture = noise(200, 150)

    def boxes(seed: int, key: str, count: int = 3) -> list[Any]:
        views = RandomCrops(size=16, count=count, seed=seed).views(picture, key)
        return [v.coordinates["view.box"] for v in views]

    assert boxes(0, "a") == boxes(0, "a", count=6)[:3]
    assert boxes(0, "a") != boxes(1, "a")
    assert boxes(0, "a") != boxes(0, "b")


def test_random_draws_are_frozen() -> None:
    """The same seed and key give these very numbers on every machine and numpy."""
    draws = Draws(7, "photos/cat.jpg")
    got = [draws.below(1000), draws.below(1000), round(draws.uniform(0, 1), 12)]
    assert got == FROZEN_DRAWS


FROZEN_DRAWS = [466, 841, 0.666076028816]


@given(sizes, st.integers(0, 50), st.tuples(st.floats(0.05, 0.5), st.floats(0.5, 1)))
@settings(max_examples=60)
def test_random_boxes_keep_the_law(
    source: tuple[int, int], seed: int, scale: tuple[float, float]
) -> None:
    """Boxes have whole corners inside the picture, and area and ratio within rounding."""
    view = RandomCrops(size=8, count=4, seed=seed, scale=scale, ratio=(0.5, 2.0))
    for each in view.views(gradient(*source), "k"):
        left, top, right, bottom = each.coordinates["view.box"]
        width, height = right - left, bottom - top
        assert all(float(edge).is_integer() for edge in (left, top, right, bottom))
        assert 0 <= left < right <= source[0]
        assert 0 <= top < bottom <= source[1]
        if min(width, height) > 20:
            assert 0.5 * 0.95 <= width / height <= 2.0 * 1.05


def test_random_crops_spread_over_the_picture_and_flip_half() -> None:
    """Over many draws, centres average to the middle and about half are mirrored."""
    views = list(RandomCrops(size=4, count=400).views(gradient(100, 100), "k"))
    boxes = np.array([v.coordinates["view.box"] for v in views])
    flips = np.array([v.coordinates["view.flip"] for v in views])
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() / 2 - 50) < 3
    assert 0.4 < flips.mean() < 0.6
    assert not any(
        v.coordinates["view.flip"] for v in RandomCrops(4, flip=False).views(gradient(9, 9), "k")
    )


def test_a_picture_that_no_draw_fits_gives_the_largest_allowed_crop() -> None:
    """A 10 x 400 picture cannot hold a crop of ratio 0.75..1.33; the fallback is 10 x 13."""
    view = RandomCrops(size=8, count=1, scale=(0.9, 1.0))
    box = next(view.views(gradient(10, 400), "k")).coordinates["view.box"]
    assert (box[2] - box[0], box[3] - box[1]) == (10, 13)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(32**2, 1024**2))
def test_buckets_have_exact_ratios_near_the_area(p: int, q: int, area: int) -> None:
    """Both sides lie on the grid in the very ratio, and no other multiple is nearer the area."""
    height, width = bucket((p, q), area, 16)
    assert height * q == width * p
    assert height % 16 == width % 16 == 0
    unit = bucket((p, q), 1, 16)
    k = height // unit[0]
    for other in (k - 1, k + 1):
        if other > 0:
            there = unit[0] * unit[1] * other**2
            assert abs(height * width - area) <= abs(there - area)


def test_the_bucket_table_at_a_quarter_megapixel() -> None:
    """The table is Infinity's where its paper's code was run: 27x36, 39x26 and 35x28 cells."""
    sizes_of = AspectBuckets(area=512 * 512).sizes()
    assert {(432, 576), (624, 416), (560, 448), (512, 512)} <= set(sizes_of)
    assert AspectBuckets(buckets=((32, 64),)).shape == (32, 64)
    assert AspectBuckets().shape is None


@given(sizes)
def test_the_nearest_bucket_is_nearest(source: tuple[int, int]) -> None:
    """No bucket's height / width is nearer the picture's."""
    table = AspectBuckets().sizes()
    height, width = nearest(source, table)
    ratio = source[1] / source[0]
    assert abs(height / width - ratio) == min(abs(h / w - ratio) for h, w in table)


def test_a_crop_that_loses_too_much_has_no_bucket() -> None:
    """Half of a 2:1 picture is lost in a square; max_loss below that refuses it."""
    loose = AspectBuckets(buckets=((32, 32),), max_loss=0.51)
    assert len(check_view(loose, noise(128, 64))) == 1
    strict = AspectBuckets(buckets=((32, 32),), max_loss=0.49)
    with pytest.raises(AssetError, match=r"would lose 50\.0% of its area") as caught:
        list(strict.views(noise(128, 64), "k"))
    assert caught.value.reason is Reason.NO_BUCKET
    assert lost(Fit((((64, 32), "lanczos"),), (16, 0, 48, 32))) == pytest.approx(0.5)


@given(sizes, st.integers(1, 32), st.integers(32, 300))
def test_native_sizes_lie_on_the_grid_and_never_grow(
    source: tuple[int, int], multiple: int, max_side: int
) -> None:
    """Both sides are multiples within max_side, and not above the source unless one cell."""
    for side, original in zip(native_size(source, multiple, max_side), source, strict=True):
        assert side % multiple == 0
        assert side <= max_side
        assert side <= max(original, multiple)


def test_native_takes_pictures_on_the_grid_as_they_are() -> None:
    """A picture within max_side whose sides are multiples is not resampled."""
    picture = noise(48, 32)
    (view,) = open_view("native").views(picture, "")
    assert np.array_equal(view.data, np.asarray(picture.image))


@pytest.mark.parametrize("kind", ["center_crop", "center_flip", "native"])
def test_views_do_not_share_memory_with_the_picture(kind: str) -> None:
    """Writing into a view changes neither the picture nor another view."""
    picture = noise(32, 32)
    before = np.array(picture.image)
    options = {} if kind == "native" else {"size": 32, "rule": "bilinear"}
    views = list(open_view(kind, options).views(picture, ""))
    views[0].data[:] = 0
    assert np.array_equal(np.asarray(picture.image), before)
    assert all(view.data.any() for view in views[1:])


def test_large_crops_are_cut_without_pillows_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the size at which Pillow would warn, the same pixels are cut through numpy."""
    picture = noise(60, 40).image
    box = (3, 5, 50, 31)
    quiet = np.asarray(cut(picture, box))
    monkeypatch.setattr("tokenmill.views.resize._QUIET_CROP_PIXELS", 0)
    assert np.array_equal(quiet, np.asarray(cut(picture, box)))


def test_opencv_bilinear_keeps_flat_pictures_flat() -> None:
    """The fixed-point weights sum to one: a constant stays that constant at any scale."""
    for value in (0, 1, 127, 254, 255):
        flat: npt.NDArray[np.uint8] = np.full((37, 23, 3), value, np.uint8)
        resized = apply(Image.fromarray(flat), fit("taming", (50, 50), (23, 37)))
        assert np.unique(np.asarray(resized)).tolist() == [value]


def test_views_pickle_small() -> None:
    """A description is what crosses processes, so it is bytes, not pictures."""
    for kind in image_kinds():
        assert len(pickle.dumps(open_view(kind))) < 1000
