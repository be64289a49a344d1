"""Continuous latents: from what is stored to what a generator is trained on.

Sampling from mean and log-variance with the clamp of latent diffusion (Rombach et al.,
arXiv:2112.10752), shift and scale as SD3 and FLUX do it, statistics per channel or position as
VA-VAE (arXiv:2501.01423) and RAE (arXiv:2510.11690), and TokenBridge's quantization of each channel
after training (arXiv:2503.16430).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import (
    Array,
    Floats,
    Ids,
    each,
    problem,
    rows_of,
    stacked,
    values_of,
)
from tokenmill_schemas.tokens import Latent, Stream

#: Limits of a log-variance.
LOGVAR = (-30.0, 20.0)


def from_bfloat16(words: Array) -> Floats:
    """Return the float32 values of bfloat16 bits ``uint16[...]``, exactly."""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(values: Array) -> Array:
    """Return the bits ``uint16[...]`` of values rounded to the nearest bfloat16, ties to even."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (words >> np.uint32(16)) & np.uint32(1)
    rounded = ((words + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def sample_posterior(moments: Floats, noise: Array | None) -> Floats:
    """Return ``float32[..., C]`` of mean and log-variance ``[..., 2 C]``; without noise the mean.

    Raises:
        JobError: the number of channels is odd.
    """
    if moments.shape[-1] % 2:
        raise problem(f"mean and log-variance have as many channels, got {moments.shape[-1]}")
    mean, logvar = np.split(moments.astype(np.float32), 2, axis=-1)
    if noise is None:
        return mean
    deviation = np.exp(0.5 * np.clip(logvar, *LOGVAR))
    return np.asarray(mean + deviation * noise.astype(np.float32), np.float32)


def scale_latent(values: Array, latent: Latent) -> Floats:
    """Return ``(value - shift) * scale`` of ``[..., C]``: float32, per channel where given so."""
    shift, scale = (np.array(v, np.float32) for v in (latent.shift, latent.scale))
    return np.asarray((values.astype(np.float32) - shift) * scale, np.float32)


@dataclass(frozen=True, slots=True)
class ToLatent:
    """Makes the model's latent ``float32[B, *axes, C]`` of a stored float stream.

    Widens bfloat16 and float16, samples or takes the mean where mean and log-variance are stored,
    and applies the stream's scale and shift: latent diffusion (arXiv:2112.10752), SD3
    (arXiv:2403.03206).

    Attributes:
        name: the stream.
        latent: what is stored, scale and shift.
        dtype: as stored, ``float32``, ``float16`` or ``bfloat16``.
        mode: ``sample`` draws anew every step; ``mean`` does not. Of stored samples and means
            there is nothing to draw.
    """

    name: str
    latent: Latent = field(default_factory=Latent)
    dtype: str = "float32"
    mode: Literal["sample", "mean"] = "sample"

    @classmethod
    def of(cls, stream: Stream, mode: Literal["sample", "mean"] = "sample") -> ToLatent:
        """Return the transform for a stream as its spec describes it.

        Raises:
            JobError: it is not a stream of floats.
        """
        if stream.kind != "float":
            raise problem(f"{stream.name!r} is a stream of {stream.kind}, not of floats")
        return cls(stream.name, stream.latent or Latent(), stream.dtype, mode)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream by its latent."""
        values = values_of(batch, self.name)
        rows_of(values, draw, self.name)
        if self.latent.parameters != "mean_logvar":
            return {**batch, self.name: each(values, self._scaled)}
        sizes = {array[..., : array.shape[-1] // 2].size for array in values}
        noise = None
        if self.mode == "sample":
            noise = draw.normal(f"latent/{self.name}", max(sizes, default=0))
        if not isinstance(values, list):
            return {**batch, self.name: self._sampled(values, noise)}
        rows = range(len(values))
        found = [
            self._sampled(values[i][None], None if noise is None else noise[i : i + 1])[0]
            for i in rows
        ]
        return {**batch, self.name: found}

    def _sampled(self, moments: Array, noise: Array | None) -> Floats:
        wide = self._wide(moments)
        if noise is not None:
            shape = (*wide.shape[:-1], wide.shape[-1] // 2)
            noise = noise[:, : int(np.prod(shape[1:]))].reshape(shape)
        return scale_latent(sample_posterior(wide, noise), self.latent)

    def _scaled(self, values: Array) -> Array:
        return scale_latent(self._wide(values), self.latent)

    def _wide(self, values: Array) -> Floats:
        if self.dtype == "bfloat16":
            if values.dtype != np.uint16:
                raise problem(f"bfloat16 is stored as uint16, {self.name!r} is {values.dtype}")
            return from_bfloat16(values)
        return values.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Standardise:
    """Makes ``(value - mean) / deviation`` of a stream, with statistics that broadcast to a sample.

    Those of RAE (arXiv:2510.11690) are of every channel and position; `of_variance` adds its
    epsilon. VA-VAE's (arXiv:2501.01423) are of every channel.
    """

    name: str
    mean: Array
    deviation: Array

    def __post_init__(self) -> None:
        if not np.all(self.deviation > 0):
            raise problem(f"a deviation of {self.name!r} is not positive")

    @classmethod
    def of_variance(
        cls, name: str, mean: Array, variance: Array, epsilon: float = 1e-5
    ) -> Standardise:
        """Return the transform that divides by ``sqrt(variance + epsilon)``."""
        return cls(name, mean, np.sqrt(variance + epsilon))

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream by float32."""
        del draw
        return {**batch, self.name: each(values_of(batch, self.name), self._standard)}

    def _standard(self, values: Array) -> Array:
        return ((values.astype(np.float32) - self.mean) / self.deviation).astype(np.float32)


@lru_cache(maxsize=16)
def gaussian_levels(count: int, limit: float = 3.0) -> Floats:
    """Return the means of a standard normal's ``count`` equally likely bins: float32[count].

    The two outer bins end at -limit and limit.
    """
    normal = NormalDist()
    inner = [normal.inv_cdf(i / count) for i in range(1, count)]
    edges = [-limit, *inner, limit]
    means = [
        (normal.pdf(a) - normal.pdf(b)) / (normal.cdf(b) - normal.cdf(a))
        for a, b in pairwise(edges)
    ]
    out = np.array(means, np.float32)
    out.flags.writeable = False
    return out


@dataclass(frozen=True, slots=True)
class QuantiseChannels:
    """TokenBridge: each channel of a latent to the nearest of ``levels`` values (arXiv:2503.16430).

    ``name``, scaled latents ``float32[B, *axes, C]``, becomes level ids ``int64[B, *axes, C]``.

    Attributes:
        name: the stream, after `ToLatent`.
        levels: values of a channel.
        span: latents in +-span are mapped to +-``limit`` of a normal distribution.
        limit: where that is cut.
        channel_order: the order that channels are predicted in; () leaves it.
    """

    name: str
    levels: int = 64
    span: float = 5.0
    limit: float = 3.0
    channel_order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.levels < 2 or self.span <= 0 or self.limit <= 0:
            raise problem(f"cannot quantise to {self.levels} levels of +-{self.span}")
        if sorted(self.channel_order) != list(range(len(self.channel_order))):
            raise problem(f"channel_order {self.channel_order} is no permutation")

    def quantise(self, values: Array) -> Ids:
        """Return the nearest level of each value: int64[...]."""
        means = gaussian_levels(self.levels, self.limit)
        mapped = values.astype(np.float32) * np.float32(self.limit / self.span)
        edges = (means[1:].astype(np.float64) + means[:-1]) / 2
        return np.searchsorted(edges, mapped, side="left").astype(np.int64)

    def dequantise(self, ids: Array) -> Floats:
        """Return the values float32[...] of levels in natural channel order."""
        means = gaussian_levels(self.levels, self.limit)
        return np.asarray(means[ids] * np.float32(self.span / self.limit), np.float32)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream by level ids."""
        del draw
        values = stacked(batch, self.name)
        if self.channel_order and values.shape[-1] != len(self.channel_order):
            raise problem(f"{self.name!r} has {values.shape[-1]} channels")
        ids = self.quantise(values)
        return {
            **batch,
            self.name: ids[..., list(self.channel_order)] if self.channel_order else ids,
        }
