"""Layers of OmniTokenizer's transformers (see `tokenmill.tokenizers.omnitokenizer`).

Positions: a depthwise convolution before every attention to the whole (PEG, Chu et al.: Conditional
Positional Encodings for Vision Transformers, arXiv:2102.10882), rotations, and biases by distance
(Swin v2's, arXiv:2111.09883, within a frame; ALiBi, arXiv:2108.12409, over time).
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.omnitokenizer_config import OmniConfig

#: Batch, time, height and width of what a sequence axis was made of.
Shape = tuple[int, int, int, int]
#: Factor on the products of queries and keys of length one.
_SCALE = 8.0
_ROPE_BASE = 10000.0


class Norm(nn.Module):
    """Layer normalisation, by the names gamma and beta."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[..., D]``."""
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class Peg(nn.Module):
    """A depthwise 3 x 3 x 3 convolution over time, height and width."""

    def __init__(self, dim: int, *, causal: bool) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(dim, dim, 3, groups=dim)
        self.before, self.after = (2, 0) if causal else (1, 1)

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        """Keep the shape ``[N, L, D]``.

        The rows are taken as if they lay in the order of ``shape``. Those of a sequence over time
        do not, so that it mixes positions and frames; the weights were trained so.
        """
        grid = x.reshape(*shape, -1).movedim(-1, 1)
        grid = F.pad(grid, (1, 1, 1, 1, self.before, self.after))
        return cast("Tensor", self.dsconv(grid)).movedim(1, -1).reshape(x.shape)


class DistanceBias(nn.Module):
    """A bias for every pair of positions of a frame, from the logarithms of their distances."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2, dim), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.1)),
                nn.Linear(dim, heads),
            ]
        )

    def forward(self, side: int, device: torch.device) -> Tensor:
        """Return ``[heads, side * side, side * side]``."""
        steps = torch.arange(side, device=device)
        places = torch.cartesian_prod(steps, steps)
        apart = (places[:, None] - places[None, :]).float()
        x = apart.sign() * (apart.abs() + 1).log()
        for layer in self.net:
            x = layer(x)
        return x.movedim(-1, 0)


class FullAttention(nn.Module):
    """Attention of every row of a sequence to all of them, or to those before it.

    Queries come from the normalised input, keys and values from the input as it is; queries and
    keys have length one, times a learned scale.
    """

    def __init__(self, config: OmniConfig, *, spatial: bool) -> None:
        super().__init__()
        inner = config.dim_head * config.heads
        biased = config.attention == "einsum"
        self.heads = config.heads
        self.rotates = spatial and config.spatial_pos == "rope"
        self.causal = not spatial and config.causal_in_temporal_transformer
        self.slopes = alibi_slopes(config.heads) if biased and self.causal else None
        self.spatial_rel_pos_bias = (
            DistanceBias(config.embedding_dim, config.heads)
            if biased and spatial and config.spatial_pos == "rel"
            else None
        )
        self.norm = Norm(config.embedding_dim)
        self.to_q = nn.Linear(config.embedding_dim, inner, bias=False)
        self.to_kv = nn.Linear(config.embedding_dim, 2 * inner, bias=False)
        self.q_scale = nn.Parameter(torch.ones(config.dim_head))
        self.k_scale = nn.Parameter(torch.ones(config.dim_head))
        self.to_out = nn.Linear(inner, config.embedding_dim, bias=False)

    def forward(self, x: Tensor, _shape: Shape) -> Tensor:
        """Keep the shape ``[N, L, D]``."""
        q = self._split(self.to_q(self.norm(x)))
        k, v = (self._split(part) for part in self.to_kv(x).chunk(2, dim=-1))
        if self.rotates:
            turns = rotations(q.shape[-2], q.shape[-1], x.device)
            q, k = _rotate(q, turns), _rotate(k, turns)
        q = F.normalize(q, dim=-1) * self.q_scale
        k = F.normalize(k, dim=-1) * self.k_scale
        bias = self._bias(x.shape[1], x.device)
        causal = self.causal and bias is None
        mixed = F.scaled_dot_product_attention(
            q, k, v.to(q.dtype), attn_mask=bias, is_causal=causal, scale=_SCALE
        )
        return cast("Tensor", self.to_out(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _bias(self, length: int, device: torch.device) -> Tensor | None:
        if self.spatial_rel_pos_bias is not None:
            bias: Tensor = self.spatial_rel_pos_bias(math.isqrt(length), device)
            return bias
        if self.slopes is None:
            return None
        places = torch.arange(length, device=device)
        apart = places[:, None] - places[None, :]
        bias = -apart.abs() * torch.tensor(self.slopes, device=device)[:, None, None]
        return bias.masked_fill(apart < 0, -math.inf)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Return ALiBi's slopes: powers of one ratio, with every second of a finer row for the rest."""
    whole = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (number + 1) / whole) for number in range(whole)]
    finer = [2 ** (-8 * (number + 1) / (2 * whole)) for number in range(2 * whole)]
    return (*slopes, *finer[::2][: heads - whole])


def rotations(length: int, dim: int, device: torch.device) -> Tensor:
    """Return the turns of the pairs of a head, ``complex64[L, dim / 2]``.

    Even pairs turn with the column of a position in its square frame, odd ones with its row.
    """
    place = torch.arange(length, device=device)
    side = math.isqrt(length)
    steps = torch.arange(0, dim, 4, device=device)[: dim // 4].float()
    rates = 1.0 / (_ROPE_BASE ** (steps / dim))
    angles = torch.stack(
        [torch.outer(axis.float(), rates) for axis in (place % side, place // side)], -1
    )
    angles = angles.flatten(1)
    return torch.polar(torch.ones_like(angles), angles)


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class WindowAttention(nn.Module):
    """Attention within square windows of a frame, with a learned bias for every offset."""

    index: Tensor

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        dim, self.window, self.heads = config.embedding_dim, config.twod_window_size, config.heads
        self.norm = Norm(dim)
        span = 2 * self.window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span * span, self.heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        # On the CPU also where the network is laid out on the meta device.
        steps = torch.arange(self.window, device="cpu")
        places = torch.cartesian_prod(steps, steps)
        apart = places[:, None] - places[None, :] + self.window - 1
        self.register_buffer("index", apart[..., 0] * span + apart[..., 1], persistent=False)

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        """Keep the shape ``[N, h * w, D]``."""
        grid = (len(x), shape[2] // self.window, self.window, shape[3] // self.window, self.window)
        windows = self.norm(x).reshape(*grid, -1).transpose(2, 3).flatten(3, 4).flatten(0, 2)
        rows = self.qkv(windows).reshape(*windows.shape[:2], 3, self.heads, -1)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.index].movedim(-1, 0).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        done = self.proj(mixed.transpose(1, 2).flatten(2))
        back = (*grid[:2], grid[3], self.window, self.window)
        return cast("Tensor", done).reshape(*back, -1).transpose(2, 3).reshape(x.shape)


class Gated(nn.Module):
    """The first half times GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., 2 D]`` to ``[..., D]``."""
        value, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * value


def feed_forward(config: OmniConfig) -> nn.Sequential:
    """Return the feed-forward layer; its children have the official numbers."""
    dim, inner = config.embedding_dim, int(config.ff_mult * (2 / 3) * config.embedding_dim)
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, 2 * inner, bias=False),
        Gated(),
        nn.Identity(),
        nn.Linear(inner, dim, bias=False),
    )


class Transformer(nn.Module):
    """Layers over the positions of frames (``spatial``) or over time, then a normalisation."""

    def __init__(self, config: OmniConfig, block: str, *, spatial: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(config, kind, spatial=spatial) for kind in block)
        self.norm_out = Norm(config.embedding_dim)

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        """Keep the shape ``[N, L, D]``."""
        for layer in self.layers:
            parts = cast("nn.ModuleDict", layer)
            for name in ("0", "1"):
                if name in parts:
                    x = parts[name](x, shape) + x
            x = parts["3"](x) + x
        return cast("Tensor", self.norm_out(x))


def _layer(config: OmniConfig, kind: str, *, spatial: bool) -> nn.ModuleDict:
    """Return positions, attention and feed-forward of a layer by their official numbers."""
    if kind == "w":
        return nn.ModuleDict({"1": WindowAttention(config), "3": feed_forward(config)})
    return nn.ModuleDict(
        {
            "0": Peg(config.embedding_dim, causal=config.causal_in_peg),
            "1": FullAttention(config, spatial=spatial),
            "3": feed_forward(config),
        }
    )
