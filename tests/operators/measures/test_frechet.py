"""The Frechet distance of Gaussians: closed forms and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.measures import frechet_distance

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_a_shift_costs_its_square(seed: int) -> None:
    """Equal covariances leave the distance of the means."""
    rng = np.random.default_rng(seed)
    one, shift = rng.normal(size=(40, 5)), rng.normal(size=5)
    assert frechet_distance(one, one + shift) == pytest.approx(float(shift @ shift), abs=1e-6)


@given(SEEDS, st.floats(0.1, 4))
def test_a_scale_costs_the_square_of_deviations(seed: int, factor: float) -> None:
    """For C and s^2 C about one mean it is (1 - s)^2 tr C."""
    one = np.random.default_rng(seed).normal(size=(40, 4))
    one -= one.mean(axis=0)
    trace = float(np.trace(np.cov(one, rowvar=False)))
    expected = (1 - factor) ** 2 * trace
    assert frechet_distance(one, factor * one) == pytest.approx(expected, abs=1e-6)


@given(SEEDS)
def test_it_is_symmetric_and_zero_for_equal_sets(seed: int) -> None:
    """Also with fewer rows than columns, where covariances are singular."""
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(4, 6)), 2 + rng.normal(size=(9, 6))
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-5)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0, abs=1e-5)


def test_one_row_has_no_covariance() -> None:
    """It says so, and what shapes it wants."""
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        frechet_distance(np.zeros((2, 3)), np.zeros((5, 4)))
