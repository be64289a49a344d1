"""The network of `tokenmill.tokenizers.mill_shape`: residual convolutions in three dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.mill_config import MillShapeConfig
from tokenmill.tokenizers.networks.mill_parts import FiniteScalar, blocks

#: Cells along each side that the first layer takes together.
PATCH = 4


def to_depth(volumes: Tensor, factor: int) -> Tensor:
    """Return ``[B, C f^3, X/f, Y/f, Z/f]`` of ``[B, C, X, Y, Z]``: `PixelUnshuffle` for volumes."""
    batch, channels, *sides = volumes.shape
    x, y, z = (side // factor for side in sides)
    cells = volumes.reshape(batch, channels, x, factor, y, factor, z, factor)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * factor**3, x, y, z)


def from_depth(features: Tensor, factor: int) -> Tensor:
    """Return ``[B, C, f X, f Y, f Z]`` of ``[B, C f^3, X, Y, Z]``; undoes `to_depth`."""
    batch, channels, x, y, z = features.shape
    split = features.reshape(batch, channels // factor**3, factor, factor, factor, x, y, z)
    return split.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(
        batch, channels // factor**3, x * factor, y * factor, z * factor
    )


class MillShapeNetwork(nn.Module):
    """A tokenizer of volumes (see `tokenmill.tokenizers.volumes.VolumeNetwork`)."""

    def __init__(self, config: MillShapeConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse, dims = config.fine_width, config.coarse_width, len(config.levels)
        self.stem = nn.Conv3d(PATCH**3, fine, 3, padding=1)
        self.fine_encoder = blocks(fine, config.fine_depth, dims=3)
        self.down = nn.Conv3d(fine, coarse, 2, stride=2)
        self.coarse_encoder = blocks(coarse, config.encoder_depth, dims=3)
        self.to_latents = nn.Conv3d(coarse, dims, 1)
        self.quantizer = FiniteScalar(config.levels)
        self.from_codes = nn.Conv3d(dims, coarse, 3, padding=1)
        self.coarse_decoder = blocks(coarse, config.decoder_depth, dims=3)
        self.up = nn.Conv3d(coarse, fine * 8, 1)
        self.fine_decoder = blocks(fine, config.fine_depth, dims=3)
        self.head = nn.Conv3d(fine, PATCH**3, 3, padding=1)

    def forward(self, volumes: Tensor) -> Tensor:
        """Return the logits ``[B, 1, R, R, R]`` of occupancy ``[B, 1, R, R, R]``, to learn from."""
        return self.cells(self.quantizer(self.latents(volumes)))

    def set_torso(self, dtype: torch.dtype) -> None:
        """Keep float32, the only type that this network runs in.

        Raises:
            ValueError: another one was asked for.
        """
        if dtype != torch.float32:
            raise ValueError(f"mill_shape runs in float32, got {dtype}")

    def latents(self, volumes: Tensor) -> Tensor:
        """Return ``[B, x, y, z, D]``, before they are rounded."""
        features = self.fine_encoder(self.stem(to_depth(2 * volumes - 1, PATCH)))
        features = self.coarse_encoder(self.down(F.silu(features)))
        latents: Tensor = self.to_latents(F.silu(features))
        return latents.movedim(1, -1)

    def cells(self, codes: Tensor) -> Tensor:
        """Return the logits ``[B, 1, R, R, R]`` of codes ``[B, x, y, z, D]``."""
        features = self.coarse_decoder(self.from_codes(codes.movedim(-1, 1)))
        features = self.fine_decoder(from_depth(self.up(F.silu(features)), 2))
        return from_depth(self.head(F.silu(features)), PATCH)

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"shape": self.config.levels}

    def tokens(self, volumes: Tensor) -> dict[str, Tensor]:
        """Return ``shape``: the ids ``int64[B, x, y, z]``."""
        return {"shape": self.quantizer.ids(self.latents(volumes))}

    def logits(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 1, R, R, R]`` of the ids in ``shape``: above 0 where a cell is occupied."""
        return self.cells(self.quantizer.codes(tokens["shape"]))
