"""Layers of Cosmos's video tokenizers, each causal in time and able to go on where it stopped.

A clip may be given in parts: what a layer needs of earlier frames is in a `Past`, so that the parts
together give what the whole gives. Frames lie in the batch axis, ``[B * t, C, h, w]``; at the very
beginning the first one stands for those before it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn


class Past(dict[nn.Module, Any]):
    """What the layers remember of the earlier parts of ``clips`` clips; empty at the beginning."""

    def __init__(self, clips: int) -> None:
        super().__init__()
        self.clips = clips

    def in_time(self, frames: Tensor) -> Tensor:
        """Return ``[B * t, ...]`` as ``[B, t, ...]``."""
        return torch.unflatten(frames, 0, (self.clips, -1))


class FrameNorm(nn.Module):
    """Normalisation of every frame over its channels and positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return cast("Tensor", self.norm(x))


class Spatial(nn.Module):
    """A convolution within every frame."""

    def __init__(
        self, channels_in: int, channels_out: int, size: int = 3, *, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels_out, (1, size, size))
        self.stride, self.padding = stride, 0 if stride > 1 else size // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B * t, C_in, h, w]`` to ``C_out`` channels."""
        kernel = self.conv3d.weight.squeeze(2)
        return F.conv2d(x, kernel, self.conv3d.bias, self.stride, self.padding)


class Temporal(nn.Module):
    """A convolution over three frames: this one and the two before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, channels, (3, 1, 1))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Keep the shape ``[B * t, C, h, w]``."""
        frames = past.in_time(x)
        before = past[self] if self in past else frames[:, :1].expand(-1, 2, -1, -1, -1)
        joined = torch.cat([before, frames], dim=1)
        past[self] = joined[:, -2:].clone()
        return self.windows(joined, 1)

    def windows(self, joined: Tensor, stride: int) -> Tensor:
        """Map windows of three of the frames ``[B, t + 2, C, h, w]``, ``stride`` apart.

        As one product, since a window's frames make one long channel axis.
        """
        last = joined.shape[1] - 2
        taps = [joined[:, tap : last + tap : stride] for tap in range(3)]
        kernel = self.conv3d.weight.flatten(2).transpose(1, 2).flatten(1)[..., None, None]
        return F.conv2d(torch.cat(taps, dim=2).flatten(0, 1), kernel, self.conv3d.bias)


class Factorized(nn.ModuleList):
    """A convolution within the frames, then one over time."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__([Spatial(channels_in, channels_out), Temporal(channels_out)])

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Map ``[B * t, C_in, h, w]`` to ``C_out`` channels."""
        return cast("Tensor", self[1](self[0](x), past))


class Residual(nn.Module):
    """``x + conv(swish(norm(conv(swish(norm(x))))))``, the shortcut 1 x 1 where widths differ."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels_in)
        self.conv1 = Factorized(channels_in, channels_out)
        self.norm2 = FrameNorm(channels_out)
        self.conv2 = Factorized(channels_out, channels_out)
        if channels_in != channels_out:
            self.nin_shortcut = Spatial(channels_in, channels_out, 1)
        self.widens = channels_in != channels_out

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Map ``[B * t, C_in, h, w]`` to ``C_out`` channels."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True), past)
        h = self.conv2(F.silu(self.norm2(h), inplace=True), past)
        return cast("Tensor", h.add_(self.nin_shortcut(x) if self.widens else x))


class SpatialAttention(nn.Module):
    """Single-head attention over the positions of every frame, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = FrameNorm(channels)
        self.q = Spatial(channels, channels, 1)
        self.k = Spatial(channels, channels, 1)
        self.v = Spatial(channels, channels, 1)
        self.proj_out = Spatial(channels, channels, 1)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``[B * t, C, h, w]``."""
        h = self.norm(x)
        return self.q(h), self.k(h), self.v(h)

    def forward(self, x: Tensor, _past: Past) -> Tensor:
        """Keep the shape ``[B * t, C, h, w]``."""
        q, k, v = (part.flatten(2).transpose(1, 2).unsqueeze(1) for part in self.heads(x))
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + cast("Tensor", self.proj_out(mixed.transpose(1, 2).reshape(x.shape)))


class TemporalAttention(SpatialAttention):
    """Single-head attention of every position to itself in this frame and all before it.

    It remembers the keys and values of every earlier frame, so a `Past` grows by
    ``2 * C * h * w`` values with each.
    """

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Keep the shape ``[B * t, C, h, w]``."""
        q, k, v = (_over_time(past.in_time(part)) for part in self.heads(x))
        if self in past:
            before = past[self]
            k, v = torch.cat([before[0], k], dim=1), torch.cat([before[1], v], dim=1)
        past[self] = k, v
        seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=x.device)
        seen = seen.tril(k.shape[1] - q.shape[1])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        mixed = torch.unflatten(mixed, 0, (past.clips, *x.shape[-2:])).permute(0, 3, 4, 1, 2)
        return x + cast("Tensor", self.proj_out(mixed.reshape(x.shape)))


def _over_time(x: Tensor) -> Tensor:
    """Return ``[B, t, C, h, w]`` as one sequence per position, ``[B * h * w, t, C]``."""
    return x.permute(0, 3, 4, 1, 2).flatten(0, 2)


class Down(nn.Module):
    """Halve the sides, the time, or both: strided convolutions beside mean pooling."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.conv1 = Spatial(channels, channels, stride=2) if spatial else None
        self.conv2 = Temporal(channels) if temporal else None
        self.conv3 = Spatial(channels, channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Map ``[B * t, C, h, w]`` to fewer frames of fewer positions.

        The first part has an odd number of frames, every later one an even number.
        """
        if self.conv1 is not None:
            x = self.conv1(F.pad(x, (0, 1, 0, 1))).add_(F.avg_pool2d(x, 2))
        if self.conv2 is not None:
            x = self._halve_time(past.in_time(x), past, self.conv2)
        return cast("Tensor", self.conv3(x))

    def _halve_time(self, frames: Tensor, past: Past, conv: Temporal) -> Tensor:
        before = past[self] if self in past else frames[:, :1].expand(-1, 2, -1, -1, -1)
        joined = torch.cat([before, frames], dim=1)
        past[self] = joined[:, -1:].clone()
        mean = (joined[:, 1:-1:2] + joined[:, 2::2]) / 2
        return conv.windows(joined, 2).add_(mean.flatten(0, 1))


class Up(nn.Module):
    """Double the time, the sides, or both, by repetition and a residual convolution."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.conv1 = Temporal(channels) if temporal else None
        self.conv2 = Spatial(channels, channels) if spatial else None
        self.conv3 = Spatial(channels, channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Map ``[B * t, C, h, w]`` to more frames of more positions."""
        if self.conv1 is not None:
            begun = self.conv1 in past
            frames = past.in_time(x).repeat_interleave(2, dim=1)
            x = frames[:, 0 if begun else 1 :].flatten(0, 1)
            x = self.conv1(x, past).add_(x)
        if self.conv2 is not None:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = self.conv2(x).add_(x)
        return cast("Tensor", self.conv3(x))
