"""The network of Cosmos's picture tokenizers (see `tokenmill.tokenizers.networks.cosmos_parts`).

It is the trunk of VQGAN on Haar patches, with fewer changes of resolution.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks import conv
from tokenmill.tokenizers.networks.cosmos_config import CosmosConfig
from tokenmill.tokenizers.networks.cosmos_parts import Fsq, haar, unhaar

#: Columns before rows.
_AXES = (3, 2)


class Encoder(conv.Encoder):
    """Pixels to ``z_channels``; only the first levels halve the sides."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__(_trunk(config, config.channels_mult))
        self.patch_size = config.patch_size
        for stage in list(cast("nn.ModuleList", self.down))[config.spatial_downs :]:
            if hasattr(stage, "downsample"):
                del stage.downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, z_channels, h, w]``."""
        return super().forward(haar(x, self.patch_size, _AXES))


class Decoder(conv.Decoder):
    """``z_channels`` to pixels; only the last levels, which come first, double the sides."""

    def __init__(self, config: CosmosConfig) -> None:
        mult = config.decoder_channels_mult or config.channels_mult
        super().__init__(_trunk(config, mult))
        self.patch_size = config.patch_size
        for stage in list(cast("nn.ModuleList", self.up))[: len(mult) - config.spatial_downs]:
            if hasattr(stage, "upsample"):
                del stage.upsample

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[B, z_channels, h, w]`` to ``[B, 3, H, W]``."""
        return unhaar(super().forward(z), self.patch_size, _AXES)


def _trunk(config: CosmosConfig, mult: tuple[int, ...]) -> conv.Trunk:
    outer = (3 * config.patch_size**2, config.z_channels)
    return conv.Trunk(conv.TAMING, config.channels, mult, config.num_res_blocks, outer)


class CosmosImage(nn.Module):
    """A picture tokenizer: an `ImageNetwork` with the stream ``image``."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embedding_dim, 1)
        self.post_quant_conv: nn.Module | None = nn.Conv2d(
            config.embedding_dim, config.z_channels, 1
        )
        self.decoder: nn.Module | None = Decoder(config)
        self.quantizer = Fsq(config.levels) if config.discrete else None

    def latents(self, images: Tensor) -> Tensor:
        """Return what is quantized, or stored: ``[B, D, h, w]``."""
        return cast("Tensor", self.quant_conv(self.encoder(images)))

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ids ``[B, h, w]``, or latents with channels last."""
        z = self.latents(images).movedim(1, -1)
        return {"image": self.quantizer.ids(z) if self.quantizer else z}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the pictures of tokens.

        Raises:
            JobError: there is no decoder.
        """
        if self.decoder is None or self.post_quant_conv is None:
            raise no_decoder("cosmos")
        z = self.quantizer.codes(tokens["image"]) if self.quantizer else tokens["image"]
        return cast("Tensor", self.decoder(self.post_quant_conv(z.movedim(-1, 1))))

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.decoder, self.post_quant_conv = None, None
