"""What the picture and the video networks of Cosmos share: Haar patches and the quantizer.

NVIDIA: Cosmos World Foundation Model Platform for Physical AI (arXiv:2501.03575),
github.com/NVIDIA/Cosmos-Tokenizer. Quantizer: Mentzer et al.: Finite Scalar Quantization: VQ-VAE
Made Simple (arXiv:2309.15505).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Widens the bound of an entry a little, so that the outermost values are reached.
_EPS = 1e-3


def haar(x: Tensor, patch_size: int, axes: tuple[int, ...]) -> Tensor:
    """Return the Haar coefficients of patches, in the channels.

    Every round halves ``axes``, and makes of each channel one for every choice of half sum or half
    difference along them; the choice is the slow index, its first axis the most significant.

    Args:
        x: ``[B, C, ...]`` whose ``axes`` are multiples of ``patch_size``.
        patch_size: a power of two.
        axes: of ``x``, in the order in which they are transformed.
    """
    for _ in range(patch_size.bit_length() - 1):
        parts = [x]
        for axis in axes:
            parts = [half for part in parts for half in _split(part, axis)]
        x = torch.cat(parts, dim=1)
    return x


def unhaar(x: Tensor, patch_size: int, axes: tuple[int, ...]) -> Tensor:
    """Return the ``[B, C, ...]`` that `haar` made ``x`` of."""
    for _ in range(patch_size.bit_length() - 1):
        parts = list(x.chunk(1 << len(axes), dim=1))
        for axis in reversed(axes):
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [_join(low, high, axis) for low, high in pairs]
        (x,) = parts
    return x


def _split(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    even, odd = torch.unflatten(x, axis, (-1, 2)).unbind(axis + 1)
    return (even + odd) / 2, (even - odd) / 2


def _join(low: Tensor, high: Tensor, axis: int) -> Tensor:
    return torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)


class Fsq(nn.Module):
    """Finite scalar quantization, in float32 whatever the network runs in."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        # Made on the CPU also where the network is laid out on the meta device.
        counts = torch.tensor(levels, dtype=torch.int32, device="cpu")
        basis = torch.ones_like(counts)
        basis[1:] = counts[:-1].cumprod(0)
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def ids(self, z: Tensor) -> Tensor:
        """Return the ids ``int64[...]`` of entries ``[..., D]``."""
        half = (self.levels - 1) * (1 + _EPS) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (z.float() + (offset / half).atanh()).tanh() * half - offset
        digits = bounded.round().long() + self.levels // 2
        return (digits * self.basis).sum(-1)

    def codes(self, ids: Tensor) -> Tensor:
        """Return the entries ``float32[..., D]``, in [-1, 1], of ``ids``."""
        half = self.levels // 2
        digits = ids.unsqueeze(-1) // self.basis % self.levels
        return (digits - half) / half
