"""What is held out: by keys alone, about as much as was asked for, and whole assets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipelines.fit.conftest import part

from tokenmill_pipelines.fit.split import is_held_out, split
from tokenmill_schemas.errors import JobError


@given(st.text(), st.floats(0.01, 0.98), st.integers(0, 9))
def test_a_larger_share_holds_out_what_a_smaller_one_does(
    key: str, share: float, seed: int
) -> None:
    """Only more of it."""
    if is_held_out(key, share, seed):
        assert is_held_out(key, min(1.0, share * 1.5), seed)


def test_the_share_is_about_what_was_asked_for_and_another_seed_takes_others() -> None:
    """Of many keys."""
    keys = [f"photos/{number}.jpg" for number in range(4000)]
    out = {seed: {key for key in keys if is_held_out(key, 0.1, seed)} for seed in (0, 1)}
    assert all(330 < len(found) < 470 for found in out.values())
    assert len(out[0] & out[1]) < 80


def test_all_views_of_an_asset_are_on_one_side() -> None:
    """And every view is on one of them."""
    views = [np.full((1,), number, np.uint8) for number in range(60)]
    whole = replace(part("p", list(views)), keys=tuple(f"k{number // 3}" for number in range(60)))
    learned, held_out = split(whole, 0.3, seed=0)
    assert not set(learned.keys) & set(held_out.keys)
    values = [int(view[0]) for side in (learned, held_out) for view in side.views]
    assert sorted(values) == list(range(60))
    assert held_out.keys


def test_nothing_left_to_learn_from_is_an_error() -> None:
    """It names the part."""
    with pytest.raises(JobError, match="part 'one' has too few assets"):
        split(part("one", [np.zeros(1, np.uint8)]), 0.999999, seed=0)
