"""Codecs beside tokens: frames come back, budgets are kept, curves rise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipelines.judge.memory import picture

from tokenmill.views.base import Pixels
from tokenmill_pipelines.judge.codec_files import (
    CODECS,
    Codec,
    best_within,
    decode,
    size_bytes,
)
from tokenmill_pipelines.judge.codecs import QUALITIES, CodecTally
from tokenmill_pipelines.judge.measuring import Original

JPEG, WEBP, AVIF = CODECS
EVERY = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def clip(scenes: str, side: int = 32) -> Pixels:
    """Return a clip with a frame for each letter, equal letters are equal frames."""
    return np.stack([picture(ord(scene), side) for scene in scenes])


def one_by_one(codec: Codec, frames: Pixels, quality: int) -> int:
    """Return the bytes of all frames, each a picture of its own."""
    return sum(size_bytes(codec.encode(frame, quality)) for frame in frames)


@EVERY
def test_a_file_is_the_picture_again(codec: Codec) -> None:
    """In every codec that Pillow has, at its best quality nearly so."""
    files = codec.encode(picture(0), codec.highest)
    again = decode(files, (32, 32, 3))
    assert len(files) == 1
    assert again.shape == (32, 32, 3)
    assert np.abs(again.astype(int) - picture(0)).mean() < 6


@EVERY
@pytest.mark.parametrize("scenes", ["a", "ab", "aaaaaa", "aabbba", "abbbbb", "aabaab"])
def test_every_frame_comes_back_in_its_place(codec: Codec, scenes: str) -> None:
    """Though animations join equal frames, and become a still picture if all are equal."""
    frames = clip(scenes)
    again = decode(codec.encode(frames, codec.highest), frames.shape)
    assert again.shape == frames.shape
    assert again.dtype == np.uint8
    apart = np.abs(again.astype(int) - frames).mean(axis=(1, 2, 3))
    assert apart.max() < 6
    assert np.abs(frames[0].astype(int) - clip("b")[0]).mean() > 20  # so a wrong place would show


def test_jpeg_codes_frames_by_themselves() -> None:
    """A clip costs what its frames do, and looks as they do."""
    frames = clip("aab")
    files = JPEG.encode(frames, 50)
    assert files == tuple(JPEG.encode(frame, 50)[0] for frame in frames)
    assert np.array_equal(decode(files, frames.shape)[2], decode(files[2:], frames.shape[1:]))


def test_webp_stores_what_stays_once() -> None:
    """Equal frames cost nothing, and two scenes less than their frames do."""
    assert WEBP.encode(clip("aaaa"), 50) == WEBP.encode(clip("aa"), 50)
    frames = clip("aaabbb", 64)
    assert size_bytes(WEBP.encode(frames, 50)) < one_by_one(WEBP, frames, 50) / 2


def test_avif_predicts_frames_from_others() -> None:
    """A still clip takes less than half of its frames' bytes, and so does one that pans."""
    wide = picture(0, 96)
    still = np.stack([wide[:64, :64]] * 8)
    pans = np.stack([wide[:64, 2 * step : 64 + 2 * step] for step in range(8)])
    for frames in (still, pans):
        for quality in (20, 35):
            together = size_bytes(AVIF.encode(frames, quality))
            assert together < one_by_one(AVIF, frames, quality) / 2


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 5))
def test_the_budget_is_kept_by_the_best_that_keeps_it(budget: int, seed: int) -> None:
    """The next quality would not fit; where none does, it is the lowest, and said so."""
    for codec in (JPEG, WEBP):
        view = picture(seed, 48)
        files, fits = best_within(codec, view, budget)
        written = [codec.encode(view, q) for q in range(codec.lowest, codec.highest + 1)]
        sizes = [size_bytes(one) for one in written]
        assert fits == (sizes[0] <= budget)
        if not fits:
            assert files == written[0]
            continue
        # Sizes may fall now and then as the quality rises, so a much later one might fit as well.
        assert size_bytes(files) <= budget
        last = len(sizes) - 1
        places = [place for place, one in enumerate(written) if one == files]
        assert any(place == last or sizes[place + 1] > budget for place in places)


@given(st.integers(-1, 110), st.sets(st.integers(1, 95)))
def test_known_files_spare_work_and_change_nothing(budget: int, known: set[int]) -> None:
    """Where sizes rise the same file is found, and no known one is written again."""

    class Counts(Codec):
        """A codec whose files are as long as the quality is high."""

        def encode(self, view: Pixels, quality: int) -> tuple[bytes, ...]:
            """Return that many bytes, in two files."""
            assert quality not in known
            return bytes(quality // 2), bytes(quality - quality // 2)

    codec = Counts("counts", "Counts", 1, 95, ())
    files = {q: (bytes(q),) for q in known}
    found, fits = best_within(codec, picture(0), budget, known=files)
    assert fits == (budget >= 1)
    assert size_bytes(found) == min(max(budget, 1), 95)


@pytest.mark.parametrize("kind", ["image", "clip"])
def test_curves_have_a_point_for_each_quality_and_rise(kind: str) -> None:
    """More bits, more decibels; what is over the budget is counted."""
    tally = CodecTally(curves=True)
    for seed in range(2):
        view = picture(seed, 64) if kind == "image" else clip("abc"[seed:] + "a", 48)
        original = Original("image" if kind == "image" else "clip", view)
        tally.add(original, budget_bytes=(1, 10**6)[seed])
    for points in tally.curves().values():
        assert [point.setting for point in points] == list(QUALITIES)
        bits = [point.bits_per_unit for point in points]
        assert bits == sorted(bits)
        assert points[-1].values["psnr_db"] > points[0].values["psnr_db"] + 3
    for one in tally.equal():
        assert (one.views, one.over, one.budget_bytes) == (2, 1, (1 + 10**6) / 2)
        assert one.values["psnr_db"] > 10


def test_the_bits_of_clips_are_of_all_pixels() -> None:
    """Of every frame, as of tokens: a clip of one picture four times has a picture's JPEG rate."""
    alone, four = (CodecTally(curves=True) for _ in range(2))
    alone.add(Original("image", clip("a")[0]), budget_bytes=500)
    four.add(Original("clip", clip("aaaa")), budget_bytes=2000)
    assert four.curves()["jpeg"] == alone.curves()["jpeg"]
    rates = {name: points[3].bits_per_unit for name, points in four.curves().items()}
    assert rates["webp"] < alone.curves()["webp"][3].bits_per_unit / 3
    assert {one.codec: one.file_bytes for one in four.equal()}["jpeg"] % 4 == 0


def test_without_curves_only_the_budget_counts() -> None:
    """The second tokenizer of a report needs no curves of its own."""
    tally = CodecTally(curves=False)
    tally.add(Original("image", picture(0, 64)), budget_bytes=700)
    assert tally.curves() == {}
    assert all(one.file_bytes <= 700 or one.over for one in tally.equal())
