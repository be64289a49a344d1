"""The convolutional trunk of VQGAN and its descendants.

Esser, Rombach, Ommer: Taming Transformers for High-Resolution Image Synthesis (CVPR 2021). Taming
VQGAN, the latent-diffusion first stages, MAR's and LightningDiT's autoencoders and LlamaGen's
tokenizer are this network; they differ in sizes, in where attention is, and in `Names`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

GROUPS = 32


@dataclass(frozen=True, slots=True)
class Names:
    """What a family calls the trunk's parts in its state dicts.

    ``lowest_first``: the decoder's stages are numbered from the lowest resolution up; otherwise
    with the encoder's numbers.
    """

    down: str
    up: str
    residual: str
    mid: tuple[str, str, str]
    lowest_first: bool


TAMING = Names("down", "up", "block", ("block_1", "attn_1", "block_2"), lowest_first=False)
LLAMAGEN = Names("conv_blocks", "conv_blocks", "res", ("0", "1", "2"), lowest_first=True)


@dataclass(frozen=True, slots=True)
class Trunk:
    """Sizes of an encoder or decoder.

    ``channels`` are the network's outer ones: of the picture, and of the latent.
    ``attention_levels`` count from 0 at full resolution.
    """

    names: Names
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    channels: tuple[int, int]
    attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    resample_with_conv: bool = True

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, full resolution first."""
        return tuple(self.ch * factor for factor in self.ch_mult)


def norm(channels: int) -> nn.GroupNorm:
    """Return the group normalisation of the family: 32 groups, eps 1e-6."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class Residual(nn.Module):
    """``x + conv(swish(norm(conv(swish(norm(x))))))``, the shortcut 1 x 1 where widths differ."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.widens = channels_in != channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]`` to ``[B, C_out, H, W]``."""
        h: Tensor = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x) if self.widens else x)


class Attention(nn.Module):
    """Single-head attention over all positions, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[B, C, H, W]``."""
        h = self.norm(x)
        q, k, v = (_sequence(conv(h)) for conv in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.squeeze(1).transpose(1, 2).reshape(x.shape)
        return cast("Tensor", self.proj_out(mixed)).add_(x)


def _sequence(x: Tensor) -> Tensor:
    """Return ``[B, C, H, W]`` as one head of ``[B, 1, H * W, C]``."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1)


class Downsample(nn.Module):
    """Halve both sides: a strided convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int, *, with_conv: bool = True) -> None:
        super().__init__()
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.with_conv = with_conv

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, H // 2, W // 2]``."""
        if not self.with_conv:
            return F.avg_pool2d(x, 2)
        return cast("Tensor", self.conv(F.pad(x, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double both sides by repetition, then a convolution."""

    def __init__(self, channels: int, *, with_conv: bool = True) -> None:
        super().__init__()
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.with_conv = with_conv

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, 2 H, 2 W]``."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return cast("Tensor", self.conv(x)) if self.with_conv else x


class Stage(nn.Module):
    """Residual blocks of one resolution, with attention after each or none, then a resampling.

    Child names are the family's; ``steps`` is the order in which they run.
    """

    def __init__(self, names: Names, widths: list[int], *, attention: bool) -> None:
        super().__init__()
        residuals = nn.ModuleList([Residual(a, b) for a, b in pairwise(widths)])
        attentions = nn.ModuleList([Attention(b) for b in widths[1:]] if attention else [])
        self.add_module(names.residual, residuals)
        self.add_module("attn", attentions)
        self.residual_name = names.residual

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage."""
        residuals = cast("nn.ModuleList", self.get_submodule(self.residual_name))
        attentions = cast("nn.ModuleList", self.get_submodule("attn"))
        for index, residual in enumerate(residuals):
            x = residual(x)
            if attentions:
                x = attentions[index](x)
        for resample in ("downsample", "upsample"):
            if resample in self._modules:
                x = self.get_submodule(resample)(x)
        return x


def _mid(names: Names, channels: int, *, attention: bool) -> nn.Sequential:
    mid = nn.Sequential()
    mid.add_module(names.mid[0], Residual(channels, channels))
    if attention:
        mid.add_module(names.mid[1], Attention(channels))
    mid.add_module(names.mid[2], Residual(channels, channels))
    return mid


class Encoder(nn.Module):
    """Picture to features at ``1 / 2 ** (levels - 1)`` of its size."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        widths, last = trunk.widths, len(trunk.widths) - 1
        self.down_name = trunk.names.down
        self.conv_in = nn.Conv2d(trunk.channels[0], trunk.ch, 3, padding=1)
        stages = nn.ModuleList()
        for level, width in enumerate(widths):
            entering = widths[level - 1] if level else trunk.ch
            stage = Stage(
                trunk.names,
                [entering] + [width] * trunk.num_res_blocks,
                attention=level in trunk.attention_levels,
            )
            if level != last:
                stage.add_module(
                    "downsample", Downsample(width, with_conv=trunk.resample_with_conv)
                )
            stages.append(stage)
        self.add_module(self.down_name, stages)
        self.mid = _mid(trunk.names, widths[-1], attention=trunk.mid_attention)
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], trunk.channels[1], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, channels, h, w]``."""
        x = self.conv_in(x)
        for stage in cast("nn.ModuleList", self.get_submodule(self.down_name)):
            x = stage(x)
        x = self.norm_out(self.mid(x))
        return cast("Tensor", self.conv_out(F.silu(x, inplace=True)))


class Decoder(nn.Module):
    """Features back to a picture; one residual block more per level than the encoder."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        widths = trunk.widths
        self.up_name, self.lowest_first = trunk.names.up, trunk.names.lowest_first
        self.conv_in = nn.Conv2d(trunk.channels[1], widths[-1], 3, padding=1)
        self.mid = _mid(trunk.names, widths[-1], attention=trunk.mid_attention)
        stages = []
        for level in reversed(range(len(widths))):
            entering = widths[min(level + 1, len(widths) - 1)]
            stage = Stage(
                trunk.names,
                [entering] + [widths[level]] * (trunk.num_res_blocks + 1),
                attention=level in trunk.attention_levels,
            )
            if level:
                up = Upsample(widths[level], with_conv=trunk.resample_with_conv)
                stage.add_module("upsample", up)
            stages.append(stage)
        ordered = stages if self.lowest_first else stages[::-1]
        self.add_module(self.up_name, nn.ModuleList(ordered))
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], trunk.channels[0], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[B, channels, h, w]`` to ``[B, 3, H, W]``."""
        x = self.mid(self.conv_in(z))
        stages = list(cast("nn.ModuleList", self.get_submodule(self.up_name)))
        for stage in stages if self.lowest_first else reversed(stages):
            x = stage(x)
        x = self.norm_out(x)
        return cast("Tensor", self.conv_out(F.silu(x, inplace=True)))
