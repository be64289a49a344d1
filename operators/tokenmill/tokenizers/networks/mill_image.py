"""The network of `tokenmill.tokenizers.mill_image`: residual convolutions around scalar codes.

The encoder works on 4x4 pixels at a time and is small, so that a CPU core does some forty pictures
of 256 pixels a second; the decoder is twice its size.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.mill_config import PATCH, MillImageConfig
from tokenmill.tokenizers.networks.mill_parts import FiniteScalar, blocks


class PictureEncoder(nn.Module):
    """Pictures to features: ``[B, 3, H, W]`` to ``[B, C, H/f, W/f]``."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(PATCH)]
        layers += [nn.Conv2d(3 * PATCH**2, widths[0], 3, padding=1), blocks(widths[0], depths[0])]
        for before, width, depth in zip(widths, widths[1:], depths[1:], strict=False):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), blocks(width, depth)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of pictures in [-1, 1]."""
        features: Tensor = self.layers(images)
        return F.silu(features)


class PictureDecoder(nn.Module):
    """Features to pictures: ``[B, C, H/f, W/f]`` to ``[B, 3, H, W]``."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [blocks(widths[0], depths[0])]
        for before, width, depth in zip(widths, widths[1:], depths[1:], strict=False):
            layers += [nn.Conv2d(before, 4 * width, 1), nn.PixelShuffle(2), blocks(width, depth)]
        layers += [nn.SiLU(), nn.Conv2d(widths[-1], 3 * PATCH**2, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(PATCH))

    def forward(self, features: Tensor) -> Tensor:
        """Return pictures, about [-1, 1]."""
        images: Tensor = self.layers(features)
        return images


class MillImageNetwork(nn.Module):
    """A picture tokenizer (see `tokenmill.tokenizers.images.ImageNetwork`)."""

    def __init__(self, config: MillImageConfig) -> None:
        super().__init__()
        self.config = config
        width, dims = config.encoder_widths[-1], len(config.levels)
        self.encoder = PictureEncoder(config.encoder_widths, config.encoder_depths)
        self.to_latents = nn.Sequential(
            nn.Conv2d(width, dims * config.fold**2, 1), nn.PixelShuffle(config.fold)
        )
        self.quantizer = FiniteScalar(config.levels)
        self.from_codes = nn.Sequential(
            nn.PixelUnshuffle(config.fold),
            nn.Conv2d(dims * config.fold**2, config.decoder_widths[0], 3, padding=1),
        )
        self.decoder = PictureDecoder(config.decoder_widths, config.decoder_depths)

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions ``[B, 3, H, W]`` of pictures in [-1, 1], to learn from."""
        return self.pictures(self.quantizer(self.latents(images)))

    def latents(self, images: Tensor) -> Tensor:
        """Return ``[B, h, w, D]``, before they are rounded."""
        latents: Tensor = self.to_latents(self.encoder(images))
        return latents.movedim(1, -1)

    def pictures(self, codes: Tensor) -> Tensor:
        """Return ``[B, 3, H, W]`` of codes ``[B, h, w, D]``."""
        images: Tensor = self.decoder(self.from_codes(codes.movedim(-1, 1)))
        return images

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, the one that counts least first."""
        return {"image": self.config.levels}

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``image``: the ids ``int64[B, h, w]``."""
        return {"image": self.quantizer.ids(self.latents(images))}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, H, W]`` of the ids in ``image``."""
        return self.pictures(self.quantizer.codes(tokens["image"]))
