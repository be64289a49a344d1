"""Continuous latents, stored views, conditions and captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import (
    ChooseCaption,
    DropCondition,
    OneView,
    QuantiseChannels,
    Standardise,
    ToLatent,
)
from tokenmill.feed.shaping.latents import from_bfloat16, gaussian_levels, to_bfloat16
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Latent, Stream

RNG = np.random.default_rng(0)
ROWS = 500


def stream(parameters: Any, dtype: str = "float32", channels: int = 4) -> Stream:
    """A stream of latents."""
    latent = Latent(parameters, scale=(0.5,), shift=(0.1,))
    axes = (Axis("h", 3), Axis("w", 2))
    return Stream("x", "float", axes, channels=channels, dtype=dtype, latent=latent)


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_is_torchs(values: list[float]) -> None:
    """Rounded to the nearest, ties to even; back without loss."""
    given_values = np.array(values, np.float32)
    wanted = torch.from_numpy(given_values).to(torch.bfloat16)
    found = from_bfloat16(to_bfloat16(given_values))
    np.testing.assert_array_equal(found, wanted.float().numpy())


def test_shift_then_scale() -> None:
    """FLUX: (z - 0.1159) * 0.3611; per channel where there are as many."""
    values = RNG.standard_normal((2, 3, 2, 4)).astype(np.float32)
    latent = Latent("mean", (0.3611,), (0.1159,))
    found = ToLatent("x", latent)({"x": values}, Draw(0, 0, 0, 2))["x"]
    np.testing.assert_allclose(found, (values - 0.1159) * 0.3611, rtol=1e-5, atol=1e-6)
    each = Latent("mean", (1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 0.0, 1.0))
    found = ToLatent("x", each)({"x": values}, Draw(0, 0, 0, 2))["x"]
    np.testing.assert_allclose(found, (values - [0, 1, 0, 1]) * [1, 2, 3, 4], rtol=1e-5, atol=1e-6)


def test_samples_have_the_posteriors_mean_and_variance() -> None:
    """Of mean and log-variance, before shift and scale; anew every step, the mean never."""
    mean, logvar = np.full((ROWS, 3, 2, 4), 2.0), np.full((ROWS, 3, 2, 4), np.log(0.25))
    moments = np.concatenate([mean, logvar], axis=-1).astype(np.float32)
    sample = ToLatent.of(stream("mean_logvar", channels=8))
    one, two = (np.asarray(sample({"x": moments}, Draw(0, s, 0, ROWS))["x"]) for s in (0, 1))
    assert (one.shape, one.dtype) == ((ROWS, 3, 2, 4), np.dtype(np.float32))
    assert one.mean() == pytest.approx((2.0 - 0.1) * 0.5, abs=0.02)
    assert one.std() == pytest.approx(0.5 * 0.5, abs=0.01)
    assert (one != two).all()
    still = ToLatent.of(stream("mean_logvar", channels=8), "mean")
    np.testing.assert_allclose(
        still({"x": moments}, Draw(0, 0, 0, ROWS))["x"], (mean - 0.1) * 0.5, rtol=1e-5
    )


def test_extreme_log_variances_are_clamped() -> None:
    """At -30 and 20, as latent diffusion does: neither a constant infinity nor a NaN."""
    moments = np.zeros((1, 1, 1, 4), np.float32)
    moments[..., 2:] = (-1e9, 1e9)
    found = np.asarray(ToLatent("x", Latent("mean_logvar"))({"x": moments}, Draw(0, 0, 0, 1))["x"])
    assert abs(found[0, 0, 0, 0]) < 1e-5
    assert np.isfinite(found).all()
    assert abs(found[0, 0, 0, 1]) < 10 * np.exp(10)


def test_stored_types_are_widened() -> None:
    """bfloat16 bits and float16 become float32; bits of another type are refused."""
    values = RNG.standard_normal((2, 3, 2, 4)).astype(np.float32)
    half = ToLatent("x", Latent("mean"), "float16")
    assert np.asarray(half({"x": values.astype(np.float16)}, Draw(0, 0, 0, 2))["x"]).dtype == "f4"
    brain = ToLatent.of(stream("mean", "bfloat16"))
    found = np.asarray(brain({"x": to_bfloat16(values)}, Draw(0, 0, 0, 2))["x"])
    np.testing.assert_allclose(found, (values - 0.1) * 0.5, atol=0.02)
    with pytest.raises(JobError, match="stored as uint16"):
        brain({"x": values}, Draw(0, 0, 0, 2))
    with pytest.raises(JobError, match="not of floats"):
        ToLatent.of(Stream("x", "index", (Axis("n", 2),), (4,)))


def test_varying_shapes_are_sampled_each() -> None:
    """A list of latents of their own sizes."""
    moments = [np.zeros((n, 4), np.float32) for n in (3, 1, 2)]
    found = ToLatent("x", Latent("mean_logvar"))({"x": moments}, Draw(0, 0, 0, 3))["x"]
    assert [one.shape for one in found] == [(3, 2), (1, 2), (2, 2)]
    with pytest.raises(JobError, match="as many channels, got 3"):
        ToLatent("x", Latent("mean_logvar"))({"x": np.zeros((1, 2, 3))}, Draw(0, 0, 0, 1))


def test_statistics_of_every_position() -> None:
    """RAE: (z - mean) / sqrt(variance + 1e-5), statistics of C x H x W."""
    values = RNG.standard_normal((ROWS, 2, 2, 3)) * 4 + 7
    shaped = Standardise.of_variance("x", values.mean(axis=0), values.var(axis=0))
    found = np.asarray(shaped({"x": values}, Draw(0, 0, 0, ROWS))["x"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-4)
    with pytest.raises(JobError, match="not positive"):
        Standardise("x", np.zeros(3), np.zeros(3))


def test_channels_are_quantised_to_the_nearest_level() -> None:
    """As an argmin of distances does; levels are as likely as each other; the order is applied."""
    shaped = QuantiseChannels("x", channel_order=(2, 0, 1))
    values = (RNG.standard_normal((ROWS, 8, 3)) * 5 / 3).astype(np.float32)
    found = np.asarray(shaped({"x": values}, Draw(0, 0, 0, ROWS))["x"])
    levels = gaussian_levels(64)
    wanted = np.abs((values * 0.6)[..., None] - levels).argmin(axis=-1)
    np.testing.assert_array_equal(found, wanted[..., [2, 0, 1]])
    counts = np.bincount(found.ravel(), minlength=64)[1:-1]
    assert np.abs(counts / counts.mean() - 1).max() < 0.35
    np.testing.assert_allclose(shaped.dequantise(wanted), levels[wanted] / 0.6, rtol=1e-5)
    with pytest.raises(JobError, match="no permutation"):
        QuantiseChannels("x", channel_order=(0, 2))
    with pytest.raises(JobError, match="cannot quantise to 1 levels"):
        QuantiseChannels("x", levels=1)
    with pytest.raises(JobError, match="has 8 channels"):
        shaped({"x": np.zeros((1, 8))}, Draw(0, 0, 0, 1))


def test_one_of_several_views() -> None:
    """All alike often, the same for aligned streams, another one at another step."""
    views = np.tile(np.arange(10)[None, :, None], (ROWS, 1, 4))
    pixel = views[:, :, :2] * 100
    batch = OneView(("a", "b"))({"a": views, "b": pixel}, Draw(0, 0, 0, ROWS))
    one, two, view = (np.asarray(batch[name]) for name in ("a", "b", "a.view"))
    assert (one.shape, two.shape, view.shape) == ((ROWS, 4), (ROWS, 2), (ROWS,))
    np.testing.assert_array_equal(one[:, 0], view)
    np.testing.assert_array_equal(two[:, 0], view * 100)
    assert np.bincount(view, minlength=10).min() > 25
    other = OneView(("a",))({"a": views}, Draw(0, 1, 0, ROWS))["a.view"]
    assert (view != other).mean() > 0.8
    ragged = [np.zeros((n, 3)) for n in (1, 4)]
    found = OneView(("a",))({"a": ragged}, Draw(0, 0, 0, 2))
    assert [array.shape for array in found["a"]] == [(3,), (3,)]
    with pytest.raises(JobError, match="different numbers of views"):
        OneView(("a", "b"))({"a": views, "b": pixel[:, :5]}, Draw(0, 0, 0, ROWS))
    with pytest.raises(JobError, match="or none"):
        OneView(("a",))({"a": views[:, :0]}, Draw(0, 0, 0, ROWS))


def test_conditions_are_dropped_together() -> None:
    """A tenth of labels becomes the null class, their captions empty; others stay."""
    labels = np.arange(ROWS, dtype=np.uint16) % 1000
    texts = np.array([f"no. {i}" for i in range(ROWS)], object)
    shaped = DropCondition((("label", 1000), ("text", "")), 0.1)
    batch = shaped({"label": labels, "text": texts}, Draw(0, 0, 0, ROWS))
    dropped, label = np.asarray(batch["label.dropped"]), np.asarray(batch["label"])
    assert 0.05 < dropped.mean() < 0.15
    np.testing.assert_array_equal(label, np.where(dropped, 1000, labels))
    assert label.dtype == np.int64
    assert list(np.asarray(batch["text"])) == [
        "" if d else t for d, t in zip(dropped, texts, strict=True)
    ]
    apart = DropCondition((("text", ""),), 0.1)({"text": texts}, Draw(0, 0, 0, ROWS))
    assert (np.asarray(apart["text.dropped"]) != dropped).any()


def test_never_and_always() -> None:
    """The ends of the probability; misfits are refused."""
    labels = np.zeros(8, int)
    for probability, count in ((0.0, 0), (1.0, 8)):
        shaped = DropCondition((("label", 5),), probability)
        batch = shaped({"label": labels}, Draw(0, 0, 0, 8))
        assert np.asarray(batch["label.dropped"]).sum() == count
    with pytest.raises(JobError, match="no condition"):
        DropCondition((), 0.1)
    with pytest.raises(JobError, match="probability"):
        DropCondition((("label", 5),), 1.1)
    with pytest.raises(JobError, match="'' cannot stand for a int64"):
        DropCondition((("label", ""),), 0.1)({"label": labels}, Draw(0, 0, 0, 8))


def test_one_of_the_captions_that_there_are() -> None:
    """By weight, never an empty one while there is another."""
    columns = {
        "long": np.array(["long"] * ROWS, object),
        "short": np.array(["short", None] * (ROWS // 2), object),
    }
    shaped = ChooseCaption(("long", "short"), weights=(1.0, 3.0))
    found = np.asarray(shaped(dict(columns), Draw(0, 0, 0, ROWS))["caption"])
    assert set(found[1::2]) == {"long"}
    assert 0.65 < (found[::2] == "short").mean() < 0.85
    none = {"long": np.array([None, ""], object), "short": np.array(["", None], object)}
    assert list(np.asarray(shaped(dict(none), Draw(0, 0, 0, 2))["caption"])) == ["", ""]
    with pytest.raises(JobError, match="2 captions and 1 weights"):
        ChooseCaption(("a", "b"), weights=(1.0,))
    with pytest.raises(JobError, match="positive"):
        ChooseCaption(("a",), weights=(0.0,))
