"""The blocks of both generators: a pre-norm transformer, as small as it can be read.

RMSNorm (Zhang and Sennrich, arXiv:1910.07467), SwiGLU (Shazeer, arXiv:2002.05202) and no biases, as
LLaMA has them and LlamaGen (Sun et al., arXiv:2406.06525) for visual tokens. Positions are learned:
the grids here are small and of one size, and a causal network should know where on one it is.

Shapes: B samples, N positions, C channels, H heads, D channels of a head, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from torch import Tensor, nn

#: Standard deviation of the first weights, as GPT-2's.
INIT_STD = 0.02


@dataclass(slots=True)
class Cache:
    """Keys and values ``[B, H, n, D]`` of the n positions that a block has seen."""

    keys: Tensor | None = field(default=None, repr=False)
    values: Tensor | None = field(default=None, repr=False)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions; returns those of all so far."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Self-attention of ``heads`` heads; ``causal`` positions see those before and themselves."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Return ``float[B, N, C]``; with a cache, x are the next positions after those in it."""
        count, length, width = x.shape
        qkv = self.qkv(x).view(count, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        first = cache is None or cache.keys is None
        if cache is not None:
            k, v = cache.extend(k, v)
        if not first and length > 1:
            raise ValueError("positions are added to a cache one at a time")
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal and first)
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(count, length, width))
        return joined


class SwiGLU(nn.Module):
    """The gated MLP; two thirds of the usual four times the width, for it has three matrices."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-8 * width // 3 // 32) * 32
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``float[B, N, C]``."""
        gate, value = self.up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * value)
        return out


class Block(nn.Module):
    """Attention, then the MLP, each normed before and added after."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Return ``float[B, N, C]``."""
        x = x + self.attention(self.norm1(x), cache)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """``depth`` blocks between what embeds ids and what scores them: ``float[B, N, C]`` to V."""

    def __init__(self, width: int, depth: int, heads: int, *, ids: int, causal: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, causal=causal) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, ids, bias=False)

    def forward(self, x: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Return logits ``float[B, N, V]``."""
        for index, block in enumerate(self.blocks):
            x = block(x, caches[index] if caches is not None else None)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def caches(self) -> list[Cache]:
        """Return an empty cache for each block."""
        return [Cache() for _ in self.blocks]


def initialise(network: nn.Module, depth: int) -> None:
    """Draw the first weights as GPT-2 does; what adds to the residual starts smaller with depth."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            continue
        residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
        nn.init.normal_(parameter, std=INIT_STD / (2 * depth) ** 0.5 if residual else INIT_STD)
