"""Trying weights: which assets, cut how; sizes that a tokenizer does not take are made to fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipelines.fit.conftest import TINY, ball, picture

from tokenmill.tokenizers.mill_image import MillImage
from tokenmill.tokenizers.mill_prefix import MillPrefix
from tokenmill.tokenizers.mill_shape import MillShape
from tokenmill.tokenizers.mill_video import MillVideo
from tokenmill_pipelines.fit.config import BatchConfig
from tokenmill_pipelines.fit.trying import Cut, lengths, spread, tried_tokenizer
from tokenmill_schemas.job import OperatorConfig

counts = st.lists(st.integers(0, 12), min_size=1, max_size=4)


@given(counts, st.integers(1, 30))
def test_assets_are_spread_over_parts_and_within_them(sizes: list[int], count: int) -> None:
    """As many as asked for if there are, none twice, and no part has more than its share."""
    parts = [[f"{n}/{place // 2}" for place in range(2 * size)] for n, size in enumerate(sizes)]
    found = spread(parts, count)
    assert sum(map(len, found)) == min(count, sum(sizes))
    for size, places in zip(sizes, found, strict=True):
        assert len(set(places)) == len(places)
        assert all(place % 2 == 0 for place in places), "an asset's first view"
        assert places == sorted(places)
        if len(places) > 1:
            assert (places[0], places[-1]) == (0, 2 * size - 2)
    fewest = [len(p) for p, size in zip(found, sizes, strict=True) if len(p) < size]
    if fewest:
        assert max(map(len, found)) - min(fewest) <= 1


@pytest.mark.parametrize(
    ("tokenizer", "kind", "view", "shape"),
    [
        (MillImage(), "image", picture(1, 300), (256, 256, 3)),
        (MillImage(), "image", picture(1, 100), (96, 96, 3)),
        (MillPrefix(), "image", picture(1, 100), (256, 256, 3)),
        (MillVideo(), "clip", np.zeros((20, 144, 176, 3), np.uint8), (17, 144, 144, 3)),
        (MillVideo(), "clip", np.zeros((8, 40, 50, 3), np.uint8), (5, 32, 32, 3)),
        (MillVideo(), "clip", picture(1, 64), (17, 64, 64, 3)),
        (MillShape(), "voxels", ball(1), (16, 16, 16)),
    ],
)
def test_views_are_cut_to_what_the_tokenizer_takes(
    tokenizer: Any, kind: Any, view: Any, shape: tuple[int, ...]
) -> None:
    """The default view's size, or the largest below it that nothing has to be enlarged for."""
    batch = BatchConfig(short_side=(64, 64))
    found = Cut(tokenizer, kind, batch)("a", view)
    assert found.shape == shape
    assert np.array_equal(found, Cut(tokenizer, kind, batch)("a", view))


def test_the_tried_tokenizer_has_other_weights_and_its_default_type() -> None:
    """And all else as in the job."""
    section = OperatorConfig(
        "mill_image", {"variant": "f16", "dtype": "bfloat16", "checkpoint": "random:0"}
    )
    found = tried_tokenizer(section, "new.safetensors")
    assert found.options == {"variant": "f16", "checkpoint": "new.safetensors"}


def test_beginnings_are_doubled() -> None:
    """From the shortest that decodes; other tokens have none."""
    assert lengths(MillPrefix().spec((256, 256))) == (16, 32, 64, 128)
    assert lengths(MillImage(config=TINY).spec((32, 32))) == (1,)
