"""What is learned by: laws of the losses, and gradients that are finite everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenmill_pipelines.fit.config import LossConfig
from tokenmill_pipelines.fit.losses import (
    FLOOR,
    decibels,
    picture_loss,
    similarity,
    volume_loss,
)

ALL = LossConfig(psnr=1.0, l1=0.5, ssim=0.3)
CELLS = LossConfig(bce=1.0, overlap=1.0)
seeds = st.integers(0, 2**20)


def pictures(seed: int, side: int = 40) -> Tensor:
    """Two random pictures in [-1, 1]."""
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_pictures_cost_nothing_but_the_floor() -> None:
    """The logarithm of no error is that of 48 dB; all other terms are zero."""
    one = pictures(0)
    assert decibels(one, one).tolist() == pytest.approx([math.log10(FLOOR / 4)] * 2)
    assert decibels(one, one)[0] == pytest.approx(-4.8, abs=1e-5)
    assert float(picture_loss(one, one, LossConfig(l1=1.0, ssim=1.0))) == pytest.approx(0, abs=1e-5)


@given(seeds, st.floats(0.02, 0.4))
@settings(max_examples=20, deadline=None)
def test_decibels_are_the_psnr(seed: int, spread: float) -> None:
    """A tenth of it, negative, where it is not near the floor."""
    one = pictures(seed)
    other = one + spread
    wanted = 10 * math.log10(4 / (spread**2 + FLOOR))
    assert decibels(other, one).tolist() == pytest.approx([-wanted / 10] * 2, rel=1e-4)


@given(seeds, st.integers(8, 50))
@settings(max_examples=20, deadline=None)
def test_the_similarity_is_between_minus_one_and_one_and_symmetric(seed: int, side: int) -> None:
    """One for equal pictures, less for others; sizes need not be multiples of windows."""
    one, other = pictures(seed, side), pictures(seed + 1, side)
    found = float(similarity(one, other))
    assert -1 <= found < 0.9
    assert found == pytest.approx(float(similarity(other, one)), abs=1e-5)
    assert float(similarity(one, one)) == pytest.approx(1, abs=1e-4)


def test_worse_pictures_cost_more() -> None:
    """In every term."""
    one = pictures(3)
    for loss in (LossConfig(psnr=1.0), LossConfig(l1=1.0), LossConfig(ssim=1.0)):
        costs = [float(picture_loss(one + e * pictures(4), one, loss)) for e in (0.0, 0.1, 0.4)]
        assert costs == sorted(costs)
        assert costs[0] < costs[2]


@pytest.mark.parametrize("made", ["equal", "flat", "other"])
def test_gradients_are_finite(made: str) -> None:
    """Also where pictures are equal, and where they have no contrast at all."""
    wanted = pictures(1) if made != "flat" else torch.zeros(2, 3, 40, 40)
    start = pictures(2) if made == "other" else wanted
    given_ = start.clone().requires_grad_()
    picture_loss(given_, wanted, ALL).backward()  # type: ignore[no-untyped-call]  # torch's
    assert given_.grad is not None
    assert bool(torch.isfinite(given_.grad).all())
    if made == "other":
        assert float(given_.grad.abs().max()) > 0


def test_volumes_cost_little_where_logits_are_sure_and_right() -> None:
    """And more where they are sure and wrong; an empty volume is no special case."""
    cells = (torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    for wanted in (cells, torch.zeros_like(cells), torch.ones_like(cells)):
        sure = (wanted * 2 - 1) * 20
        assert float(volume_loss(sure, wanted, CELLS)) == pytest.approx(0, abs=1e-4)
        assert float(volume_loss(-sure, wanted, CELLS)) > 10
        logits = torch.zeros_like(wanted, requires_grad=True)
        volume_loss(logits, wanted, CELLS).backward()  # type: ignore[no-untyped-call]  # torch's
        assert logits.grad is not None
        assert bool(torch.isfinite(logits.grad).all())
    overlap = volume_loss((cells * 2 - 1) * 20, cells, LossConfig(overlap=1.0))
    assert float(overlap) == pytest.approx(0, abs=1e-5)
