from math import prod

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.tokenizers.networks.mill_parts import FiniteScalar, Residual

LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple)


@given(LEVELS)
def test_every_id_is_the_id_of_its_own_code(levels: tuple[int, ...]) -> None:
    """Ids and codes are one to one; a code lies inside its own bins."""
    quantizer = FiniteScalar(levels)
    ids = torch.arange(min(prod(levels), 4000))
    codes = quantizer.codes(ids)
    assert codes.abs().max() < 1
    # The latent whose sigmoid is the middle of the bin.
    latents = torch.special.logit((codes + 1) / 2) / 1.6
    assert torch.equal(quantizer.ids(latents), ids)
    assert torch.allclose(quantizer(latents), codes, atol=1e-6)


@given(LEVELS, st.integers(0, 2**31))
def test_any_latent_has_an_id_of_the_vocabulary(levels: tuple[int, ...], seed: int) -> None:
    """Also far ones and infinite ones; the code of its id is what a decoder is given."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(0, 10.0 ** rng.integers(-3, 4), (50, len(levels)))
    drawn[0], drawn[1] = np.inf, -np.inf
    latents = torch.from_numpy(drawn).float()
    quantizer = FiniteScalar(levels)
    ids = quantizer.ids(latents)
    assert ids.min() >= 0
    assert ids.max() < quantizer.vocab_size
    assert ids[0] == quantizer.vocab_size - 1
    assert ids[1] == 0
    near = torch.allclose(quantizer(latents[2:]), quantizer.codes(ids[2:]), atol=1e-6)
    assert near


def test_a_normal_variable_uses_all_levels_nearly_evenly() -> None:
    """That is what the slope is for: 8 levels of a normal variable carry over 2.98 of 3 bits."""
    latents = torch.from_numpy(np.random.default_rng(0).normal(size=(100_000, 1))).float()
    counts = torch.bincount(FiniteScalar((8,)).ids(latents), minlength=8)
    shares = counts / counts.sum()
    assert -(shares * shares.log2()).sum() > 2.98


def test_gradients_pass_straight_through() -> None:
    """As if nothing had been rounded: those of the sigmoid alone."""
    latents = torch.tensor([[0.3, -0.7]], requires_grad=True)
    FiniteScalar((5, 8))(latents).sum().backward()
    smooth = latents.detach().clone().requires_grad_()
    (2 * torch.sigmoid(1.6 * smooth) - 1).sum().backward()  # type: ignore[no-untyped-call]
    assert latents.grad is not None
    assert smooth.grad is not None
    assert torch.allclose(latents.grad, smooth.grad)


def test_residual_blocks_keep_shapes_of_two_and_three_dimensions() -> None:
    """And begin near the identity."""
    torch.manual_seed(0)
    for dims, shape in ((2, (1, 6, 5, 7)), (3, (1, 6, 3, 4, 5))):
        x = torch.randn(*shape)
        y = Residual(6, dims=dims)(x)
        assert y.shape == x.shape
        assert (y - x).square().mean() < 0.1 * x.square().mean()
