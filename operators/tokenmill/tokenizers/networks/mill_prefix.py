"""The network of `tokenmill.tokenizers.mill_prefix`: convolutions around two changes of basis.

A coarse grid of features becomes a sequence by matrices over all its positions, as the coefficients
of a Karhunen-Loeve transform are made of a picture, and becomes a grid again by others. Every
beginning of the ids decodes because learning drops their tail at random: nested dropout (Rippel et
al., arXiv:1402.0915), of which the authors show that it orders a linear code by what it explains.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.mill_config import MillPrefixConfig
from tokenmill.tokenizers.networks.mill_image import PictureDecoder, PictureEncoder
from tokenmill.tokenizers.networks.mill_parts import FiniteScalar


class Mixer(nn.Module):
    """Positions to other positions, by a matrix of its own for every few channels."""

    def __init__(self, before: int, after: int, channels: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, after, before) * before**-0.5)
        self.bias = nn.Parameter(torch.zeros(after, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, M, C]`` of ``[B, L, C]``, which may lack the last of its positions."""
        count, length, channels = x.shape
        weight = self.weight[..., :length]
        grouped = x.reshape(count, length, len(weight), -1).permute(2, 0, 3, 1)
        mixed = (grouped.flatten(1, 2) @ weight.mT).reshape(*grouped.shape[:3], -1)
        return mixed.permute(1, 3, 0, 2).reshape(count, -1, channels) + self.bias


class MillPrefixNetwork(nn.Module):
    """A picture tokenizer (see `tokenmill.tokenizers.images.ImageNetwork`)."""

    def __init__(self, config: MillPrefixConfig) -> None:
        super().__init__()
        self.config = config
        width, cells, dims = config.width, config.grid**2, len(config.levels)
        self.encoder = PictureEncoder(config.encoder_widths, config.encoder_depths)
        self.to_sequence = Mixer(cells, config.count, width, config.groups)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.to_latents = nn.Linear(width, dims)
        self.quantizer = FiniteScalar(config.levels)
        self.from_codes = nn.Linear(dims, width)
        self.ranks = nn.Parameter(torch.ones(1, config.count, width))
        self.to_grid = Mixer(config.count, cells, width, config.groups)
        self.decoder = PictureDecoder(config.decoder_widths, config.decoder_depths)

    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        """Return reconstructions from prefixes of ``lengths`` ``int64[B]``, to learn from."""
        return self.pictures(self.quantizer(self.latents(images)), lengths)

    def latents(self, images: Tensor) -> Tensor:
        """Return ``[B, n, D]``, before they are rounded."""
        x = self.to_sequence(self.encoder(images).flatten(2).transpose(1, 2))
        x = x + self.narrow(F.silu(self.wide(x)))
        latents: Tensor = self.to_latents(x)
        return latents

    def pictures(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return ``[B, 3, H, W]`` of codes ``[B, n, D]``, of which the first ``lengths`` count."""
        known = self.from_codes(codes) * self.ranks[:, : codes.shape[1]]
        if lengths is not None:
            kept = torch.arange(codes.shape[1], device=lengths.device) < lengths[:, None]
            known = known * kept[..., None]
        side = self.config.grid
        cells = self.to_grid(known).transpose(1, 2).reshape(len(codes), -1, side, side)
        images: Tensor = self.decoder(cells)
        return images

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"image": self.config.levels}

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``image``: the ids ``int64[B, n]``."""
        return {"image": self.quantizer.ids(self.latents(images))}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, H, W]`` of a prefix of the ids in ``image``."""
        return self.pictures(self.quantizer.codes(tokens["image"]))
