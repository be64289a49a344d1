"""Texts and faces before and after, with readers that are known, and with those installed."""

import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tokenmill_pipelines.judge import faces, texts

WORDS = st.text("abcd", max_size=8)


@given(WORDS, WORDS)
def test_closeness_is_one_for_equal_texts_alone(before: str, after: str) -> None:
    """From 0, where nothing is in its place, to 1."""
    value = texts.closeness(before, after)
    assert 0 <= value <= 1
    assert (value == 1) == (before == after)
    assert value == texts.closeness(after, before)


def test_a_line_is_cut_out_upright() -> None:
    """Also one that is slanted, and one that runs downwards."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 5:45] = (255, 0, 0)
    box = np.array([[5, 10], [45, 10], [45, 20], [5, 20]], float)
    assert texts.cut(image, box).shape == (10, 40, 3)
    assert (texts.cut(image, box)[2:-2, 2:-2] == (255, 0, 0)).all()
    downwards = np.array([[5, 2], [12, 2], [12, 38], [5, 38]], float)
    assert texts.cut(image, downwards).shape == (7, 36, 3)


class FakeReader:
    """Finds one line, and reads the red value of its middle as a text."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.threads = params["EngineConfig.onnxruntime.intra_op_num_threads"]

    def __call__(self, picture: Any, use_det: bool, use_cls: bool, use_rec: bool) -> Any:
        """As rapidocr's; pictures are blue, green, red."""
        assert not use_cls
        if use_det:
            assert not use_rec
            box = [[0, 0], [20, 0], [20, 10], [0, 10]]
            return SimpleNamespace(boxes=np.array([box]) if picture.any() else None)
        text, score = READ[int(picture[5, 10, 2])]
        return SimpleNamespace(txts=(text,), scores=(score,))


READ = {
    10: ("open daily", 0.99),
    20: ("oven daily", 0.9),
    30: ("", 0.1),
    40: ("blurred", 0.3),
    50: ("x", 0.99),
}


def flat(value: int) -> Any:
    """A picture whose red is a key of `READ`."""
    return np.full((12, 24, 3), (value, 0, 0), np.uint8)


def test_characters_that_come_back_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spaces; lines that were unsure or short before count for nothing."""
    monkeypatch.setitem(sys.modules, "rapidocr", SimpleNamespace(RapidOCR=FakeReader))
    monkeypatch.setattr(metadata, "version", lambda name: f"1.2 of {name}")
    tally = texts.TextTally()
    assert tally.score() is None
    counts = [tally.add(flat(a), flat(b)) for a, b in ((10, 10), (10, 20), (10, 30), (40, 10))]
    assert counts == [1, 1, 1, 0]
    assert [tally.add(flat(50), flat(10)), tally.add(flat(0) * 0, flat(10))] == [0, 0]
    found = tally.score()
    assert found is not None
    assert (found.reader, found.views) == ("rapidocr 1.2 of rapidocr", 3)
    assert (found.lines, found.characters) == (3, 27)
    assert found.character_accuracy == 17 / 27
    assert found.line_accuracy == 1 / 3
    assert found.t_ned == pytest.approx((1 + 8 / 9 + 0) / 3)


@pytest.mark.skipif(not texts.is_installed(), reason="rapidocr is not installed")
def test_the_installed_reader_reads() -> None:
    """Its networks are in its package; what is greyed out does not come back."""
    image = Image.new("RGB", (256, 96), "white")
    font = ImageFont.load_default(28)
    ImageDraw.Draw(image).text((20, 30), "Hello World 42", "black", font)
    pixels = np.asarray(image)
    tally = texts.TextTally()
    assert tally.add(pixels, pixels) in (1, 2)
    found = tally.score()
    assert found is not None
    assert (found.characters, found.character_accuracy, found.t_ned) == (12, 1, 1)
    tally.add(pixels, np.full_like(pixels, 200))
    again = tally.score()
    assert again is not None
    assert (again.character_accuracy, again.line_accuracy) == (0.5, 0.5)


BOXES = st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(1, 9)] * 2)


@given(BOXES, BOXES)
def test_overlap_is_that_of_the_cells(one: faces.Box, other: faces.Box) -> None:
    """Of boxes of whole pixels, counted."""
    grids = np.zeros((2, 20, 20), bool)
    for grid, (top, left, height, width) in zip(grids, (one, other), strict=True):
        grid[top : top + height, left : left + width] = True
    expected = (grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum()
    assert faces.overlap(one, other) == pytest.approx(expected)


class FakeCascade:
    """Finds a face where the upper left pixel says."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def detect_multi_scale(self, img: Any, **settings: Any) -> list[dict[str, int]]:
        """As scikit-image's."""
        assert settings["max_size"] == (64, 64)
        place = int(img[0, 0, 0])
        return [{"r": place, "c": place, "width": 20, "height": 20}] if place else []


def test_faces_that_are_found_again_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same place, that is; the pixels inside have figures of their own."""
    monkeypatch.setitem(sys.modules, "skimage.feature", SimpleNamespace(Cascade=FakeCascade))
    monkeypatch.setattr(metadata, "version", lambda name: f"1.2 of {name}")

    def marked(place: int) -> Any:
        picture = np.full((64, 64, 3), 90, np.uint8)
        picture[0, 0, 0] = place
        return picture

    tally = faces.FaceTally()
    assert tally.score() is None
    pairs = ((5, 6), (5, 40), (5, 0), (0, 5))
    assert [tally.add(marked(a), marked(b)) for a, b in pairs] == [1, 1, 1, 0]
    found = tally.score()
    assert found is not None
    assert (found.views, found.faces, found.psnr_db) == (3, 3, 100)
    assert found.found_again == pytest.approx(1 / 3)
    assert found.ssim == pytest.approx(1)
    assert tally.add(marked(5)[:20], marked(5)[:20]) == 0


def test_a_picture_too_small_for_a_face_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector is not even asked."""
    monkeypatch.setitem(sys.modules, "skimage.feature", SimpleNamespace(Cascade=FakeCascade))
    monkeypatch.setattr(metadata, "version", lambda name: name)
    small = np.full((31, 64, 3), 5, np.uint8)
    assert faces.FaceTally().add(small, small) == 0


@pytest.mark.skipif(not faces.is_installed(), reason="scikit-image is not installed")
def test_the_installed_detector_finds_a_face() -> None:
    """In the photograph that its package carries; not in what is grey."""
    import importlib

    skimage_data: Any = importlib.import_module("skimage.data")
    pixels = np.asarray(Image.fromarray(skimage_data.astronaut()).resize((256, 256)))
    tally = faces.FaceTally()
    assert tally.add(pixels, pixels) >= 1
    found = tally.score()
    assert found is not None
    assert found.found_again == 1
    assert tally.add(np.full_like(pixels, 99), pixels) == 0
