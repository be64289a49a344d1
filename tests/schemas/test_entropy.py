"""Sums of entropies add up, and limits on quality are sane."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.entropy import (
    GROUPS,
    NAMES,
    Entropy,
    EntropySums,
    combine,
    entropy_of,
)
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import parse_job
from tokenmill_schemas.limits import CHECKED, LimitsConfig

COUNTS = st.integers(1, 2**70)
SUMS: st.SearchStrategy[EntropySums] = st.dictionaries(
    st.sampled_from(["image", "semantic"]),
    st.dictionaries(
        st.sampled_from([str(size) for size in GROUPS]),
        st.fixed_dictionaries(dict.fromkeys(NAMES, COUNTS)),
        min_size=1,
    ),
)


@given(SUMS, SUMS, SUMS)
def test_sums_add_in_any_order_and_what_was_added_can_be_taken_away(
    one: EntropySums, two: EntropySums, three: EntropySums
) -> None:
    """Exactly, whatever their size: a merge is theirs and ours, less what both began with."""
    whole = combine(one, two, three)
    assert combine(three, combine(two, one)) == whole
    assert combine(combine(one, two), combine(one, three), less=one) == whole
    assert combine(one, less=one) == {}
    assert combine(one) == one


@given(st.lists(st.integers(0, 16_000), min_size=2, max_size=50))
def test_the_mean_and_its_standard_error_are_those_of_the_groups(millibits: list[int]) -> None:
    """As numpy has them of the single values."""
    squares = sum(value**2 for value in millibits)
    found = Entropy(len(millibits), sum(millibits), squares, 3 * len(millibits))
    assert found.mean_bits == pytest.approx(np.mean(millibits) / 1000)
    error = np.std(millibits, ddof=1) / np.sqrt(len(millibits)) / 1000
    assert found.error_bits == pytest.approx(error, abs=1e-9)
    assert found.mean_ids == 3


def test_what_is_not_there_has_no_groups() -> None:
    """Neither another stream nor another size."""
    sums = {"image": {"1": dict.fromkeys(NAMES, 2)}}
    assert entropy_of(sums, "image", 1) == Entropy(2, 2, 2, 2)
    assert entropy_of(sums, "image", 8) == entropy_of(sums, "other", 1) == Entropy()
    assert (Entropy().mean_bits, Entropy().error_bits, Entropy(1, 5, 25).error_bits) == (0, 0, 0)


def test_samples_are_checked_only_where_a_limit_or_the_job_asks() -> None:
    """A number of the job's own counts always."""
    assert LimitsConfig().checked_samples == 0
    assert LimitsConfig(max_entropy_drift=1).checked_samples == 0
    assert LimitsConfig(min_psnr_db=20).checked_samples == CHECKED
    assert LimitsConfig(min_iou=0.5).checked_samples == CHECKED
    assert LimitsConfig(min_iou=0.5, check_samples=9).checked_samples == 9
    assert LimitsConfig(check_samples=2).checked_samples == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("check_samples", -1),
        ("min_psnr_db", -0.5),
        ("min_psnr_db", 100.5),
        ("min_psnr_db", float("nan")),
        ("min_iou", 1.01),
        ("min_iou", float("nan")),
        ("max_entropy_drift", -1.0),
        ("max_entropy_drift", float("inf")),
    ],
)
def test_limits_on_quality_have_bounds(name: str, value: float) -> None:
    """What could never hold, or never break, is a slip."""
    table = {
        "name": "n",
        "source": {"kind": "files"},
        "tokenizer": {"kind": "patch_vq"},
        "store": {"uri": "s"},
    }
    with pytest.raises(JobError, match=rf"limits: {name} must be"):
        parse_job(table | {"limits": {name: value}})
