"""Parts of the tokenizers that are trained here: finite scalar quantization and residual blocks.

Quantization is that of Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple"
(arXiv:2309.15505), with a sigmoid in place of the hyperbolic tangent and bins of equal width, which
spreads a normal variable nearly evenly over the levels, so that ids carry more bits.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

#: ``sigmoid(1.6 x)`` is close to the distribution function of a normal variable.
SLOPE = 1.6


class FiniteScalar(nn.Module):
    """Rounds every channel to one of a few levels; the levels' numbers together are the id.

    Args:
        levels: of every channel; the vocabulary has their product.

    Attributes:
        vocab_size: how many ids there are.
    """

    radix: Tensor
    sizes: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.vocab_size = prod(levels)
        radix = [prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("radix", torch.tensor(radix, device="cpu"), persistent=False)
        self.register_buffer("sizes", torch.tensor(levels, device="cpu").float(), persistent=False)

    def numbers(self, latents: Tensor) -> Tensor:
        """Return each channel's level ``float32[..., D]``, 0 to L - 1, of latents ``[..., D]``."""
        unit = torch.sigmoid(SLOPE * latents.float())
        return torch.minimum((unit * self.sizes).floor(), self.sizes - 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the codes of latents ``[..., D]``, in (-1, 1); gradients pass straight through."""
        soft = 2 * torch.sigmoid(SLOPE * latents.float()) - 1
        return soft + (self.values(self.numbers(latents)) - soft).detach()

    def values(self, numbers: Tensor) -> Tensor:
        """Return the codes ``float32[..., D]`` of levels' numbers: the middles of their bins."""
        return (2 * numbers.float() + 1) / self.sizes - 1

    def ids(self, latents: Tensor) -> Tensor:
        """Return ``int64[...]`` of latents ``[..., D]``; the first channel counts least."""
        return (self.numbers(latents).long() * self.radix).sum(-1)

    def codes(self, ids: Tensor) -> Tensor:
        """Return the codes ``float32[..., D]`` of ids ``int64[...]``."""
        numbers = ids[..., None] // self.radix % self.sizes.long()
        return self.values(numbers)


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity; the second one begins at a tenth of its size.

    Without normalisation layers, as in Lim et al., "Enhanced Deep Residual Networks for Single
    Image Super-Resolution" (arXiv:1707.02921): they cost time and pictures lose their contrast.
    """

    def __init__(self, channels: int, *, dims: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.first = conv(channels, channels, 3, padding=1)
        self.second = conv(channels, channels, 3, padding=1)
        if not self.second.weight.is_meta:
            with torch.no_grad():
                self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape ``[B, C, ...]``."""
        update: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + update


def blocks(channels: int, count: int, *, dims: int = 2) -> nn.Sequential:
    """Return ``count`` residual blocks, one after the other."""
    return nn.Sequential(*(Residual(channels, dims=dims) for _ in range(count)))
