"""Masked generation: ratios, counts, targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import MAGE, MAR, MaskTokens, Schedule, TruncatedNormal
from tokenmill.feed.shaping.masking import IGNORE, Function, mask_counts, mask_ratio
from tokenmill_schemas.errors import JobError

KINDS: tuple[Function, ...] = ("cosine", "linear", "square", "cubic", "sqrt", "arccos")
ROWS = 2000
IDS = np.random.default_rng(0).integers(0, 1024, (ROWS, 64)).astype(np.uint16)


@pytest.mark.parametrize("kind", KINDS)
def test_schedules_fall_from_one_to_nothing(kind: Function) -> None:
    """MaskGIT: continuous, decreasing, gamma(0) = 1 and gamma(1) = 0."""
    ratios = mask_ratio(kind, np.linspace(0, 1, 101))
    assert ratios[0] == 1.0
    assert ratios[-1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(ratios) < 0).all()


def test_known_ratios() -> None:
    """Half way through."""
    found = {kind: float(mask_ratio(kind, 0.5)) for kind in KINDS}
    assert found == pytest.approx(
        {"cosine": 0.5**0.5, "linear": 0.5, "square": 0.75, "cubic": 0.875,
         "sqrt": 1 - 0.5**0.5, "arccos": 2 / 3}
    )  # fmt: skip


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_counts_round_up_to_whole_tokens(n: int, part: int) -> None:
    """At least one, at most all, and exact where the ratio is one of whole tokens."""
    part = min(part, n)
    assert mask_counts(np.array(part / n), n) == max(1, part)


def test_masked_tokens_and_targets() -> None:
    """Masked ones are targets and read as the mask; all others are read and are no targets."""
    batch = MaskTokens("x", 1024)({"x": IDS}, Draw(0, 0, 0, ROWS))
    shown, targets, mask = (np.asarray(batch[f"x{end}"]) for end in ("", ".targets", ".mask"))
    assert (shown.dtype, targets.dtype) == (np.dtype(np.int64), np.dtype(np.int64))
    np.testing.assert_array_equal(shown, np.where(mask, 1024, IDS))
    np.testing.assert_array_equal(targets, np.where(mask, IDS.astype(int), IGNORE))
    counts = mask.sum(axis=1)
    assert counts.min() >= 1
    # E cos(pi r / 2) = 2 / pi
    assert counts.mean() / 64 == pytest.approx(2 / np.pi, abs=0.03)
    assert len(np.unique(counts)) > 50
    assert np.abs(mask.mean(axis=0) - mask.mean()).max() < 0.06, "no position is special"


def test_a_shared_ratio_masks_as_many_everywhere() -> None:
    """MAR: one ratio a step, at least 0.7, and another position set for each sample."""
    counts = set()
    for step in range(20):
        batch = MaskTokens("x", None, MAR, shared=True, order=True, tail=1)(
            {"x": IDS[:50].astype(np.float32)[..., None]}, Draw(0, step, 0, 50)
        )
        mask, order = np.asarray(batch["x.mask"]), np.asarray(batch["x.order"])
        assert "x.targets" not in batch
        assert (mask.sum(axis=1) == mask[0].sum()).all()
        assert len(np.unique(mask, axis=0)) > 1 or mask.all()
        np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(64), (50, 1)))
        known = 64 - int(mask[0].sum())
        assert not np.take_along_axis(mask, order[:, :known], axis=1).any(), "known ones first"
        counts.add(int(mask[0].sum()))
    assert min(counts) >= 45
    assert len(counts) > 5


@pytest.mark.parametrize("normal", [MAR, MAGE], ids=["MAR", "MAGE"])
def test_truncated_normal(normal: TruncatedNormal) -> None:
    """Its median and quartiles are those of rejection sampling."""
    found = normal.ratios((np.arange(20000) + 0.5) / 20000)
    drawn = np.random.default_rng(0).normal(normal.mean, normal.deviation, 400_000)
    kept = drawn[(drawn >= normal.low) & (drawn <= normal.high)]
    quantiles = (0, 0.25, 0.5, 0.75, 1)
    np.testing.assert_allclose(
        np.quantile(found, quantiles), np.quantile(kept, quantiles), atol=0.005
    )


def test_padding_is_never_masked_or_counted() -> None:
    """The share is of valid tokens, the masked ones are among them."""
    lengths = np.arange(ROWS) % 63 + 2
    valid = np.arange(64) < lengths[:, None]
    masked = MaskTokens("x", 1024, Schedule("linear"), valid="x.valid", order=True)
    batch = masked({"x": IDS, "x.valid": valid}, Draw(0, 0, 0, ROWS))
    mask = np.asarray(batch["x.mask"])
    assert not (mask & ~valid).any()
    assert (mask.sum(axis=1) >= 1).all()
    assert (mask.sum(axis=1) / lengths).mean() == pytest.approx(0.52, abs=0.03)
    assert (np.asarray(batch["x.targets"])[~valid] == IGNORE).all()
    with pytest.raises(JobError, match=r"'x\.valid' is"):
        masked({"x": IDS, "x.valid": valid[:, :3]}, Draw(0, 0, 0, ROWS))


def test_a_grid_is_masked_by_positions_and_not_by_rows() -> None:
    """It becomes one axis; ids of one position are masked together."""
    grid = IDS[:100].reshape(100, 8, 8)
    flat = MaskTokens("x", 1024)({"x": IDS[:100]}, Draw(0, 0, 0, 100))
    batch = MaskTokens("x", 1024)({"x": grid}, Draw(0, 0, 0, 100))
    for name in ("x", "x.mask", "x.targets"):
        np.testing.assert_array_equal(batch[name], flat[name])
    deep = MaskTokens("x", 1024, tail=1)({"x": grid}, Draw(0, 0, 0, 100))
    assert np.asarray(deep["x.mask"]).shape == (100, 8)
    hidden = np.asarray(deep["x"]) == 1024
    np.testing.assert_array_equal(hidden.all(axis=-1), hidden.any(axis=-1))


BAD: list[tuple[Any, str]] = [
    (lambda: Schedule("step"), "no schedule 'step'"),  # type: ignore[arg-type]
    (lambda: TruncatedNormal(deviation=0), "no distribution"),
    (lambda: TruncatedNormal(low=0.9, high=0.2), "no distribution"),
]


@pytest.mark.parametrize(("make", "text"), BAD)
def test_impossible_settings_are_refused(make: Any, text: str) -> None:
    """At once."""
    with pytest.raises(JobError, match=text):
        make()
