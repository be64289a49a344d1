"""SSIM and MS-SSIM beside other ways to compute them, and their laws."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import convolve2d

from tokenmill.measures import Structure, ms_ssim, ssim
from tokenmill.measures.structure import WEIGHTS

Array = npt.NDArray[Any]
SKIMAGE = 0.6820192782294962


def pair(height: int = 190, width: int = 201) -> tuple[Array, Array]:
    """A pattern with edges, gradients and odd sides, and the same with noise."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 100 * np.sin(x / 9) * np.cos(y / 13)
    one = np.stack([(x * 3 + y) % 256, (x * y // 7) % 256, smooth], -1).astype(np.uint8)
    noise = rng.integers(-20, 21, one.shape)
    return one, np.clip(one.astype(int) + noise, 0, 255).astype(np.uint8)


def direct(one: Array, other: Array) -> tuple[float, float]:
    """SSIM and its contrast part of one channel, by two-dimensional windows and central moments."""
    places = np.arange(-5, 6)
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: Array) -> Array:
        return np.asarray(convolve2d(values, window, mode="valid"))

    a, b = mean(one), mean(other)
    first, second = mean(one**2) - a**2, mean(other**2) - b**2
    contrast = (2 * (mean(one * other) - a * b) + 58.5225) / (first + second + 58.5225)
    whole = (2 * a * b + 6.5025) / (a**2 + b**2 + 6.5025) * contrast
    return float(whole.mean()), float(contrast.mean())


def direct_ms(one: Array, other: Array) -> float:
    """MS-SSIM by its definition, scale by scale."""
    planes = [(one[..., c].astype(float), other[..., c].astype(float)) for c in range(3)]
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        found = np.mean([direct(*planes_) for planes_ in planes], axis=0)
        product *= found[0 if scale == len(WEIGHTS) - 1 else 1] ** weight
        planes = [(_half(a), _half(b)) for a, b in planes]
    return product


def _half(plane: Array) -> Array:
    height, width = (side // 2 * 2 for side in plane.shape)
    blocks = plane[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)))


def test_ssim_is_that_of_scikit_image() -> None:
    """As ``structural_similarity(..., gaussian_weights=True, use_sample_covariance=False)``.

    The number is of scikit-image 0.26.0, with ``sigma=1.5, data_range=255, channel_axis=2``.
    """
    assert ssim(*pair()) == pytest.approx(SKIMAGE, abs=1e-9)


def test_both_are_what_their_definitions_say() -> None:
    """Two-dimensional windows, channel by channel, give the same."""
    one, other = pair()
    channels = [direct(one[..., c].astype(float), other[..., c].astype(float)) for c in range(3)]
    assert ssim(one, other) == pytest.approx(np.mean([whole for whole, _ in channels]), abs=1e-9)
    assert ms_ssim(one, other) == pytest.approx(direct_ms(one, other), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(11, 24), st.integers(11, 24))
def test_ssim_is_symmetric_and_at_most_one(seed: int, height: int, width: int) -> None:
    """One for equal pictures alone."""
    one, other = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    value = ssim(one, other)
    assert value == pytest.approx(ssim(other, one))
    assert value is not None
    assert -1 <= value < 1
    assert ssim(one, one) == pytest.approx(1)


def test_more_noise_is_less_alike() -> None:
    """At one scale and at five."""
    one, noisy = pair()
    middle = ((one.astype(int) + noisy) // 2).astype(np.uint8)
    for measure in (ssim, ms_ssim):
        values = [measure(one, other) for other in (noisy, middle, one)]
        assert values == sorted(values, key=lambda value: value or 0)
        assert values[-1] == pytest.approx(1)


def test_opposite_structure_counts_as_none() -> None:
    """A negative picture has a negative contrast, whose power would be no number."""
    one, _ = pair()
    assert ms_ssim(one, 255 - one) == 0


def test_what_is_too_small_has_no_value() -> None:
    """A window of 11 pixels must fit, at the coarsest scale too."""
    for sides, has in (((10, 40), [0, 0]), ((11, 175), [1, 0]), ((176, 176), [1, 1])):
        one, other = pair(*sides)
        assert [value is not None for value in Structure(one).compare(other)] == has


def test_other_shapes_are_refused() -> None:
    """A picture is uint8[H, W, 3], and both have one size."""
    one, other = pair()
    with pytest.raises(ValueError, match="shapes differ"):
        ssim(one, other[1:])
    with pytest.raises(ValueError, match=r"uint8\[H, W, 3\]"):
        Structure(one[None])
