"""Codecs beside tokens: budgets are kept, curves rise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pipelines.judge.memory import picture

from tokenmill_pipelines.judge.codecs import CODECS, QUALITIES, CodecTally, best_within, decode
from tokenmill_pipelines.judge.measuring import Original


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_file_is_the_picture_again(codec: object) -> None:
    """In every codec that Pillow has, at its best quality nearly so."""
    found = next(one for one in CODECS if one is codec)
    image = Image.fromarray(picture(0))
    again = decode(found.encode(image, found.highest))
    assert again.shape == (32, 32, 3)
    assert np.abs(again.astype(int) - picture(0)).mean() < 6


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 5))
def test_the_budget_is_kept_by_the_best_that_keeps_it(budget: int, seed: int) -> None:
    """The next quality would not fit; where none does, it is the lowest, and said so."""
    for codec in CODECS[:2]:
        image = Image.fromarray(picture(seed, 48))
        data, fits = best_within(codec, image, budget)
        sizes = [len(codec.encode(image, q)) for q in range(codec.lowest, codec.highest + 1)]
        assert fits == (sizes[0] <= budget)
        if not fits:
            assert len(data) == sizes[0]
            continue
        # Sizes may fall now and then as the quality rises, so a much later one might fit as well.
        assert len(data) <= budget
        last = len(sizes) - 1
        places = [place for place, size in enumerate(sizes) if size == len(data)]
        assert any(place == last or sizes[place + 1] > budget for place in places)


def test_curves_have_a_point_for_each_quality_and_rise() -> None:
    """More bits, more decibels; what is over the budget is counted."""
    tally = CodecTally(curves=True)
    for seed in range(2):
        tally.add(Original("image", picture(seed, 64)), budget_bytes=(1, 10**6)[seed])
    for points in tally.curves().values():
        assert [point.setting for point in points] == list(QUALITIES)
        bits = [point.bits_per_unit for point in points]
        assert bits == sorted(bits)
        assert points[-1].values["psnr_db"] > points[0].values["psnr_db"] + 3
    for one in tally.equal():
        assert (one.views, one.over, one.budget_bytes) == (2, 1, (1 + 10**6) / 2)
        assert one.values["psnr_db"] > 10


def test_without_curves_only_the_budget_counts() -> None:
    """The second tokenizer of a report needs no curves of its own."""
    tally = CodecTally(curves=False)
    tally.add(Original("image", picture(0, 64)), budget_bytes=700)
    assert tally.curves() == {}
    assert all(one.file_bytes <= 700 or one.over for one in tally.equal())
