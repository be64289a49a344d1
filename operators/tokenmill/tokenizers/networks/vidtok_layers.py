"""The layers of VidTok, on tensors ``[B, C, T, H, W]``; see `tokenmill.tokenizers.networks.vidtok`.

Layers that look back in time keep what they need in a `Past`, not on themselves: any number of
clips can be on their way through one network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.vidtok_config import TimePadding

#: Makes a convolution from channels in and out; its `forward` takes ``(x, past)``.
MakeConv = Callable[[int, int], nn.Module]


class Past:
    """What the causal layers of one network remember of one batch of clips between its parts.

    Attributes:
        ahead: how many frames at the end of the current part, in the resolution of the layer that
            reads it, are only there to look ahead; they come again with the next part.
    """

    def __init__(self, time_padding: TimePadding) -> None:
        self.time_padding = time_padding
        self.ahead = 0
        self._kept: dict[nn.Module, Tensor] = {}

    def extend(self, layer: nn.Module, x: Tensor, count: int) -> Tensor:
        """Return ``x`` with the ``count`` frames before it, and keep what the next part needs."""
        if count == 0:
            return x
        before = self._kept.get(layer)
        if before is None:
            before = x[:, :, :1].expand(-1, -1, count, -1, -1)
            before = torch.zeros_like(before) if self.time_padding == "zeros" else before
        joined = torch.cat((before, x), dim=2)
        self.keep(layer, joined, count)
        return joined

    def kept(self, layer: nn.Module) -> Tensor | None:
        """Return what ``layer`` kept of the part before, if there was one."""
        return self._kept.get(layer)

    def keep(self, layer: nn.Module, x: Tensor, count: int) -> None:
        """Keep the last ``count`` frames of ``x`` that are not only there to look ahead."""
        end = x.shape[2] - self.ahead
        # A copy, because a view would hold the whole part.
        self._kept[layer] = x[:, :, end - count : end].clone()


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of every pixel, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised tensor, of the shape of ``x``."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


def by_frame(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the result of a layer for pictures on every frame of ``x``."""
    done = layer(x.transpose(1, 2).flatten(0, 1))
    return done.reshape(x.shape[0], x.shape[2], *done.shape[1:]).transpose(1, 2)


class FrameConv(nn.Conv2d):
    """A convolution of every frame by itself."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2)

    def forward(self, input: Tensor, _past: Past | None = None) -> Tensor:  # noqa: A002 - torch's
        """Return ``[B, C', T, H, W]``."""
        return by_frame(input, super().forward)


class CausalConv3d(nn.Module):
    """A convolution whose frames depend on none after them."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__()
        side = kernel // 2
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, padding=(0, side, side))
        self.before = kernel - 1

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C', T, H, W]``."""
        return self.conv(past.extend(self, x, self.before))  # type: ignore[no-any-return]


class CausalConv1d(nn.Module):
    """A convolution over the three frames that end with each, of every pixel by itself."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 3)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C', T, H, W]``."""
        return over_time(past.extend(self, x, 2), self.conv)


class WholeConv3d(nn.Conv3d):
    """A convolution over the frames on both sides."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2)

    def forward(self, input: Tensor, _past: Past | None = None) -> Tensor:  # noqa: A002 - torch's
        """Return ``[B, C', T, H, W]``."""
        return super().forward(input)


class WholeConv1d(nn.Conv1d):
    """A convolution over a frame and its two neighbours, of every pixel by itself."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, input: Tensor, _past: Past | None = None) -> Tensor:  # noqa: A002 - torch's
        """Return ``[B, C', T, H, W]``."""
        return over_time(input, self)


def over_time(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Return the result of a convolution's weights along the frames of ``x``.

    All pixels are the second axis of a picture whose first one is time, so that nothing is moved.
    """
    padding = (int(conv.padding[0]), 0)
    done = F.conv2d(x.flatten(3), conv.weight.unsqueeze(-1), conv.bias, padding=padding)
    return done.reshape(*done.shape[:3], *x.shape[3:])


def conv3d(time_padding: TimePadding) -> type[CausalConv3d] | type[WholeConv3d]:
    """Return the family's convolution over time and space."""
    return WholeConv3d if time_padding == "both" else CausalConv3d


def conv1d(time_padding: TimePadding) -> type[CausalConv1d] | type[WholeConv1d]:
    """Return the family's convolution over time."""
    return WholeConv1d if time_padding == "both" else CausalConv1d


class Residual(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``, the shortcut 1 x 1 where widths differ."""

    def __init__(self, channels_in: int, channels_out: int, conv: MakeConv) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels_in)
        self.conv1 = conv(channels_in, channels_out)
        self.norm2 = ChannelNorm(channels_out)
        self.conv2 = conv(channels_out, channels_out)
        if channels_in != channels_out:
            self.nin_shortcut = FrameConv(channels_in, channels_out, 1)
        self.widens = channels_in != channels_out

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C', T, H, W]``."""
        h = self.conv1(F.silu(self.norm1(x)), past)
        h = self.conv2(F.silu(self.norm2(h)), past)
        return h + (self.nin_shortcut(x) if self.widens else x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention of one head among the pixels of every frame."""

    def __init__(self, channels: int, conv: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.q, self.k, self.v = (conv(channels, channels, 1) for _ in range(3))
        self.proj_out = conv(channels, channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C, T, H, W]``."""
        h = self.norm(x)
        # [B, T, H * W, C], as batched attention takes it.
        q, k, v = (
            layer(h, past).flatten(3).permute(0, 2, 3, 1).contiguous()
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2)
        return x + self.proj_out(mixed.reshape(x.shape), past)  # type: ignore[no-any-return]


class HalveSpace(nn.Module):
    """A convolution of stride 2 in every frame, padded right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C, T, H / 2, W / 2]``."""
        return by_frame(x, lambda frames: self.conv(F.pad(frames, (0, 1, 0, 1))))


class DoubleSpace(nn.Module):
    """Every pixel four times, then a convolution of every frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C, T, 2 H, 2 W]``."""
        return by_frame(x, lambda frames: self.conv(F.interpolate(frames, scale_factor=2.0)))


class HalveTime(nn.Module):
    """A learned mix of a mean over three frames and a convolution, both of stride 2 in time."""

    def __init__(self, channels: int, time_padding: TimePadding) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), 2.0))
        self.causal = time_padding != "both"
        conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.conv: nn.Module = conv
        if self.causal:
            self.conv = nn.Module()
            self.conv.conv = conv

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C, T / 2, H, W]``."""
        if self.causal:
            x, conv = past.extend(self, x, 1), self.conv.conv
        else:
            x, conv = F.pad(x, (0, 0, 0, 0, 0, 1)), self.conv
        mix = self.mix_factor.sigmoid()
        mean = F.avg_pool3d(x, (3, 1, 1), stride=(2, 1, 1))
        return mix * mean + (1 - mix) * conv(x)  # type: ignore[no-any-return, operator]


class DoubleTime(nn.Module):
    """Twice the frames, and a learned mix of them and their convolution.

    v1.0 repeats every frame. v1.1 interpolates linearly, a quarter of the way to either neighbour,
    where the ``head`` frames that the clip's first position became are apart from the others: they
    are neighbours to themselves only.
    """

    def __init__(self, channels: int, time_padding: TimePadding, *, head: int) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), 2.0))
        self.conv = conv3d(time_padding)(channels, channels)
        self.linear = time_padding == "first"
        self.head = head

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C, 2 T, H, W]``."""
        x = self._interpolate(x, past) if self.linear else x.repeat_interleave(2, dim=2)
        past.ahead *= 2
        mix = self.mix_factor.sigmoid()
        return mix * x + (1 - mix) * self.conv(x, past)  # type: ignore[no-any-return]

    def _interpolate(self, x: Tensor, past: Past) -> Tensor:
        before = past.kept(self)
        past.keep(self, x, 1)
        if before is not None:
            return _between(torch.cat((before, x), dim=2))[:, :, 2:]
        head, others = x[:, :, : self.head], x[:, :, self.head :]
        return torch.cat([_between(part) for part in (head, others) if part.shape[2]], dim=2)


def _between(x: Tensor) -> Tensor:
    """Return two frames for each: a quarter of the way to the one before, and to the one after."""
    before = torch.cat((x[:, :, :1], x[:, :, :-1]), dim=2)
    after = torch.cat((x[:, :, 1:], x[:, :, -1:]), dim=2)
    pairs = torch.stack((0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after), dim=3)
    return pairs.flatten(2, 3)
