"""The convolutional VQGAN of MaskGIT, in its PyTorch form.

Chang et al.: MaskGIT: Masked Generative Image Transformer (CVPR 2022); the PyTorch form is that of
github.com/bytedance/1d-tokenizer, whose RAR and TiTok use it. It differs from the taming trunk: no
attention, no biases in residual blocks, average pooling, and a shortcut that takes the block's own
output (as the original in JAX does), not its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.images import no_decoder
from tokenmill.tokenizers.networks.conv import norm
from tokenmill.tokenizers.networks.conv_autoencoder import STREAM
from tokenmill.tokenizers.quantize import Floats, code_vectors, look_up, nearest_code


@dataclass(frozen=True, slots=True)
class MaskGITSizes:
    """Sizes of the network: widths of every level (full resolution first), depth, channels."""

    widths: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    num_channels: int = 3


class Residual(nn.Module):
    """Two normalised 3 x 3 convolutions; where widths differ, ``h + shortcut(h)``."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_out, channels_out, 1, bias=False)
        self.widens = channels_in != channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]`` to ``[B, C_out, H, W]``."""
        h: Tensor = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h + self.nin_shortcut(h) if self.widens else h.add_(x)


def _blocks(widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList([Residual(a, b) for a, b in pairwise(widths)])


class _Stage(nn.Module):
    def __init__(self, widths: list[int], *, upsample: bool = False) -> None:
        super().__init__()
        self.block = _blocks(widths)
        if upsample:
            self.upsample_conv = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if not self.upsample:
            return x
        return cast("Tensor", self.upsample_conv(F.interpolate(x, scale_factor=2.0)))


class MaskGITEncoder(nn.Module):
    """Picture to features at ``1 / 2 ** (levels - 1)`` of its size."""

    def __init__(self, sizes: MaskGITSizes) -> None:
        super().__init__()
        widths, depth = sizes.widths, sizes.num_res_blocks
        entering = (widths[0], *widths[:-1])
        self.conv_in = nn.Conv2d(sizes.num_channels, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            [_Stage([a] + [b] * depth) for a, b in zip(entering, widths, strict=True)]
        )
        self.mid = _blocks([widths[-1]] * (depth + 1))
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], sizes.z_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, z_channels, h, w]``."""
        x = self.conv_in(x)
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else F.avg_pool2d(x, 2))
        for block in self.mid:
            x = block(x)
        return cast("Tensor", self.conv_out(F.silu(self.norm_out(x), inplace=True)))


class MaskGITDecoder(nn.Module):
    """Features back to a picture; ``up`` is numbered as the encoder's ``down``."""

    def __init__(self, sizes: MaskGITSizes) -> None:
        super().__init__()
        widths, depth = sizes.widths, sizes.num_res_blocks
        entering = (*widths[1:], widths[-1])
        self.conv_in = nn.Conv2d(sizes.z_channels, widths[-1], 3, padding=1)
        self.mid = _blocks([widths[-1]] * (depth + 1))
        self.up = nn.ModuleList(
            [
                _Stage([a] + [b] * depth, upsample=level > 0)
                for level, (a, b) in enumerate(zip(entering, widths, strict=True))
            ]
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], sizes.num_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[B, z_channels, h, w]`` to ``[B, 3, H, W]``."""
        x: Tensor = self.conv_in(z)
        for block in self.mid:
            x = block(x)
        for stage in reversed(list(self.up)):
            x = stage(x)
        return cast("Tensor", self.conv_out(F.silu(self.norm_out(x), inplace=True)))


class _Quantizer(nn.Module):
    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)


class MaskGITAutoencoder(nn.Module):
    """The whole tokenizer; an `tokenmill.tokenizers.images.ImageNetwork` on input in [0, 1]."""

    def __init__(self, sizes: MaskGITSizes, *, codes: int) -> None:
        super().__init__()
        self.encoder = MaskGITEncoder(sizes)
        self.decoder: MaskGITDecoder | None = MaskGITDecoder(sizes)
        self.quantize = _Quantizer(codes, sizes.z_channels)

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.decoder = None

    def latents(self, images: Tensor) -> Tensor:
        """Return what the quantiser gets: ``[B, z_channels, h, w]``."""
        return cast("Tensor", self.encoder(images))

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ids ``int64[B, h, w]``."""
        z = self.latents(images).permute(0, 2, 3, 1)
        return {STREAM: nearest_code(z, self.quantize.embedding.weight, distance="addmm")}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the pictures of ids ``[B, h, w]``.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.decoder is None:
            raise no_decoder("maskgit_vqgan")
        codes = look_up(tokens[STREAM], self.quantize.embedding.weight)
        return cast("Tensor", self.decoder(codes.permute(0, 3, 1, 2)))

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, z_channels]``."""
        return code_vectors(self.quantize.embedding.weight)
