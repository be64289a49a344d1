"""The network of `tokenmill.tokenizers.mill_prefix`: convolutions around transformers of queries.

Queries read a grid of features, as in Yu et al., "An Image is Worth 32 Tokens for Reconstruction
and Generation" (arXiv:2406.07550); every beginning of their ids decodes because learning drops
their tail at random (nested dropout: Rippel et al., arXiv:1402.0915).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.mill_config import MillPrefixConfig
from tokenmill.tokenizers.networks.mill_image import PictureDecoder, PictureEncoder
from tokenmill.tokenizers.networks.mill_parts import FiniteScalar


class Block(nn.Module):
    """Attention of all to all, then a perceptron; both behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``[B, L, C]`` of the same; ``mask`` ``bool[B, 1, 1, L]`` says who is looked at."""
        parts = self.query_key_value(self.before(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        update: Tensor = self.narrow(F.gelu(self.wide(self.between(x)), approximate="tanh"))
        return x + update


class MillPrefixNetwork(nn.Module):
    """A picture tokenizer (see `tokenmill.tokenizers.images.ImageNetwork`)."""

    def __init__(self, config: MillPrefixConfig) -> None:
        super().__init__()
        self.config = config
        width, cells, dims = config.width, config.grid**2, len(config.levels)
        self.encoder = PictureEncoder(config.encoder_widths, config.encoder_depths)
        self.seen_places = nn.Parameter(torch.randn(1, cells, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, config.count, width) * 0.5)
        self.readers = nn.ModuleList(
            Block(width, config.heads) for _ in range(config.encoder_blocks)
        )
        self.to_latents = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dims))
        self.quantizer = FiniteScalar(config.levels)
        self.from_codes = nn.Linear(dims, width)
        self.ranks = nn.Parameter(torch.randn(1, config.count, width) * 0.5)
        self.drawn_places = nn.Parameter(torch.randn(1, cells, width) * 0.5)
        self.writers = nn.ModuleList(
            Block(width, config.heads) for _ in range(config.decoder_blocks)
        )
        self.decoder = PictureDecoder(config.decoder_widths, config.decoder_depths)

    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        """Return reconstructions from prefixes of ``lengths`` ``int64[B]``, to learn from."""
        return self.pictures(self.quantizer(self.latents(images)), lengths)

    def latents(self, images: Tensor) -> Tensor:
        """Return ``[B, n, D]``, before they are rounded."""
        seen = self.encoder(images).flatten(2).transpose(1, 2) + self.seen_places
        x = torch.cat((self.queries.expand(len(seen), -1, -1), seen), dim=1)
        for block in self.readers:
            x = block(x)
        latents: Tensor = self.to_latents(x[:, : self.config.count])
        return latents

    def pictures(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return ``[B, 3, H, W]`` of codes ``[B, n, D]``, of which the first ``lengths`` count."""
        batch, count, _ = codes.shape
        known = self.from_codes(codes) + self.ranks[:, :count]
        x = torch.cat((self.drawn_places.expand(batch, -1, -1), known), dim=1)
        mask = None if lengths is None else self._mask(lengths, count)
        for block in self.writers:
            x = block(x, mask)
        side = self.config.grid
        cells = x[:, : side * side].transpose(1, 2).reshape(batch, -1, side, side)
        images: Tensor = self.decoder(cells)
        return images

    def _mask(self, lengths: Tensor, count: int) -> Tensor:
        cells = torch.ones(len(lengths), self.config.grid**2, dtype=torch.bool)
        places = torch.arange(count, device=lengths.device)
        kept = places < lengths[:, None]
        return torch.cat((cells.to(lengths.device), kept), dim=1)[:, None, None]

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"image": self.config.levels}

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``image``: the ids ``int64[B, n]``."""
        return {"image": self.quantizer.ids(self.latents(images))}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, H, W]`` of a prefix of the ids in ``image``."""
        return self.pictures(self.quantizer.codes(tokens["image"]))
