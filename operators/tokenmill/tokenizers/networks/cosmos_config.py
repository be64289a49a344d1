"""Sizes of the Cosmos tokenizers, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tokenmill.tokenizers.clip_grid import Frames

MID_GROUPS = 32


@dataclass(frozen=True, slots=True)
class CosmosConfig:
    """Architecture, by the official names.

    Attributes:
        video: causal convolutions over time; otherwise the network of still pictures.
        discrete: ids by finite scalar quantization; otherwise latents.
        spatial_compression: pixels per position down and across.
        temporal_compression: frames per position of time after the first frame; 1 for pictures.
        channels: width of the first level, which ``channels_mult`` multiplies level by level.
        decoder_channels_mult: of the decoder, where it has other levels; empty: the same.
        patch_size: side of the Haar patches.
        z_channels: width between encoder and quantizer.
        embedding_dim: entries that are quantized, or channels of the latent.
        levels: values that each quantized entry takes; the first is the least significant digit.
    """

    video: bool = True
    discrete: bool = True
    spatial_compression: int = 8
    temporal_compression: int = 4
    channels: int = 128
    channels_mult: tuple[int, ...] = (2, 4, 4)
    decoder_channels_mult: tuple[int, ...] = ()
    num_res_blocks: int = 2
    patch_size: int = 4
    z_channels: int = 16
    embedding_dim: int = 6
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)

    def __post_init__(self) -> None:
        factors = (self.spatial_compression, self.temporal_compression, self.patch_size)
        if any(factor < 1 or factor & (factor - 1) for factor in factors):
            raise ValueError(f"compressions and patch_size must be powers of two, got {factors}")
        if self.video != (self.temporal_compression > 1):
            raise ValueError("temporal_compression is 1 for pictures and more for videos")
        if not self.channels_mult or self.spatial_downs not in range(self.resampled + 1):
            raise ValueError(
                f"{len(self.channels_mult)} levels and patches of {self.patch_size} cannot give a "
                f"spatial compression of {self.spatial_compression}"
            )
        if self.video and self.temporal_downs not in range(len(self.channels_mult)):
            raise ValueError(f"no level gives a time factor of {self.temporal_compression}")
        if not self.video and any(w % MID_GROUPS for w in (self.channels, *self.widths)):
            raise ValueError(f"channels must be a multiple of {MID_GROUPS}, got {self.channels}")
        if self.discrete and len(self.levels) != self.embedding_dim:
            raise ValueError(f"levels must have {self.embedding_dim} entries, got {self.levels}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder's levels, full resolution first."""
        return tuple(self.channels * factor for factor in self.channels_mult)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of the decoder's levels, full resolution first."""
        return tuple(
            self.channels * factor for factor in self.decoder_channels_mult or self.channels_mult
        )

    @property
    def resampled(self) -> int:
        """Levels that may change the resolution: in videos all but the last."""
        return len(self.channels_mult) - (1 if self.video else 0)

    @property
    def spatial_downs(self) -> int:
        """Halvings of the sides beside those of the patches."""
        return int(math.log2(self.spatial_compression) - math.log2(self.patch_size))

    @property
    def temporal_downs(self) -> int:
        """Halvings of time beside those of the patches."""
        return int(math.log2(self.temporal_compression) - math.log2(self.patch_size))

    @property
    def frames(self) -> Frames:
        """The clip lengths that it takes."""
        return Frames(1, self.temporal_compression)

    @property
    def codes(self) -> int:
        """Number of ids."""
        return math.prod(self.levels)


def official(name: str) -> CosmosConfig:
    """Return the sizes of an official model by its name, as ``DV8x16x16`` or ``CI8x8``."""
    discrete, video = name[0] == "D", name[1] == "V"
    factors = [int(factor) for factor in name[2:].split("x")]
    temporal = factors[0] if video else 1
    return CosmosConfig(
        video=video,
        discrete=discrete,
        spatial_compression=factors[-1],
        temporal_compression=temporal,
        # The authors' continuous decoder for four frames a slot has a level less than its encoder.
        decoder_channels_mult=(2, 4) if video and not discrete and temporal == 4 else (),
        z_channels=256 if discrete and not video else 16,
        embedding_dim=6 if discrete else 16,
    )


NAMES = (
    *("DV4x8x8", "DV8x8x8", "DV8x16x16", "DI8x8", "DI16x16"),
    *("CV4x8x8", "CV8x8x8", "CV8x16x16", "CI8x8", "CI16x16"),
)
