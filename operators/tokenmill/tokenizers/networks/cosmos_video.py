"""The causal network of Cosmos's video tokenizers.

See `tokenmill.tokenizers.networks.cosmos_parts` for the source. A clip goes through the encoder a
few frames at a time, always the same ones, so that a clip that is read in parts gives what it gives
in one piece, to the last bit.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.cosmos_config import CosmosConfig
from tokenmill.tokenizers.networks.cosmos_layers import (
    Down,
    Factorized,
    FrameNorm,
    Past,
    Residual,
    Spatial,
    SpatialAttention,
    TemporalAttention,
    Up,
)
from tokenmill.tokenizers.networks.cosmos_parts import Fsq, haar, unhaar

_AXES = (2, 3, 4)
#: Frames that go through the encoder at a time, after the first one.
_PART_FRAMES = 16


class Middle(nn.Module):
    """Two residual blocks with attention in space and in time between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels)
        self.attn_1 = nn.Sequential(SpatialAttention(channels), TemporalAttention(channels))
        self.block_2 = Residual(channels, channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Keep the shape ``[B * t, C, h, w]``."""
        for layer in (self.block_1, *self.attn_1, self.block_2):
            x = layer(x, past)
        return x


class Level(nn.Module):
    """Residual blocks at one resolution, then a change of it."""

    def __init__(
        self,
        channels: tuple[int, int],
        blocks: int,
        *,
        downsample: Down | None = None,
        upsample: Up | None = None,
    ) -> None:
        super().__init__()
        entering, width = channels
        self.block = nn.ModuleList(
            Residual(width if number else entering, width) for number in range(blocks)
        )
        self.downsample, self.upsample = downsample, upsample

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Map ``[B * t, C_in, h, w]`` to the next level's input."""
        for layer in (*self.block, self.downsample, self.upsample):
            x = x if layer is None else layer(x, past)
        return x


class Encoder(nn.Module):
    """Pixels to ``z_channels``."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.conv_in = Factorized(3 * config.patch_size**3, config.channels)
        widths = (config.channels, *config.widths)
        self.down = nn.ModuleList(
            Level((widths[number], width), config.num_res_blocks, downsample=_down(config, number))
            for number, width in enumerate(config.widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = FrameNorm(widths[-1])
        self.conv_out = Factorized(widths[-1], config.z_channels)

    def forward(self, clips: Tensor, past: Past) -> Tensor:
        """Map the next frames ``[B, 3, T, H, W]`` to ``[B * t, z_channels, h, w]``."""
        if not past:
            first = clips[:, :, :1].expand(-1, -1, self.patch_size - 1, -1, -1)
            clips = torch.cat([first, clips], dim=2)
        x = haar(clips, self.patch_size, _AXES).transpose(1, 2).flatten(0, 1)
        for layer in (self.conv_in, *self.down, self.mid):
            x = layer(x, past)
        return cast("Tensor", self.conv_out(F.silu(self.norm_out(x), inplace=True), past))


class Decoder(nn.Module):
    """``z_channels`` to pixels."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        widths = config.decoder_widths
        self.conv_in = Factorized(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1])
        entering = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            Level(
                (entering[number], width), config.num_res_blocks + 1, upsample=_up(config, number)
            )
            for number, width in enumerate(widths)
        )
        self.norm_out = FrameNorm(widths[0])
        self.conv_out = Factorized(widths[0], 3 * config.patch_size**3)

    def forward(self, z: Tensor, past: Past) -> Tensor:
        """Map the next ``[B * t, z_channels, h, w]`` to ``[B, 3, T, H, W]``."""
        begun = bool(past)
        for layer in (self.conv_in, self.mid, *reversed(self.up)):
            z = layer(z, past)
        z = self.conv_out(F.silu(self.norm_out(z), inplace=True), past)
        clips = unhaar(past.in_time(z).transpose(1, 2), self.patch_size, _AXES)
        return clips if begun else clips[:, :, self.patch_size - 1 :]


def _down(config: CosmosConfig, number: int) -> Down | None:
    """Halve at the first levels; the last one has nothing to say about it."""
    spatial, temporal = number < config.spatial_downs, number < config.temporal_downs
    if number == len(config.widths) - 1 or not (spatial or temporal):
        return None
    return Down(config.widths[number], spatial=spatial, temporal=temporal)


def _up(config: CosmosConfig, number: int) -> Up | None:
    """Double time one level after the first of the decoder, and the sides there or before."""
    widths, (space, time) = config.decoder_widths, (config.spatial_downs, config.temporal_downs)
    step = len(widths) - 1 - number
    temporal = 0 < step <= time
    spatial = temporal or (step < space and space > time)
    if not number or not (spatial or temporal):
        return None
    return Up(widths[number], spatial=spatial, temporal=temporal)


class CosmosVideo(nn.Module):
    """A clip tokenizer with the stream ``video``: a `tokenmill.tokenizers.clips.CausalNetwork`."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self.frames = config.frames
        step = max(_PART_FRAMES, config.temporal_compression)
        self.parts = Frames(1 + step, step)
        self.encoder = Encoder(config)
        self.quant_conv = Spatial(config.z_channels, config.embedding_dim, 1)
        self.post_quant_conv: nn.Module | None = Spatial(config.embedding_dim, config.z_channels, 1)
        self.decoder: nn.Module | None = Decoder(config)
        self.quantizer = Fsq(config.levels) if config.discrete else None

    def begin(self, clips: int) -> Past:
        """Return the state of an encoder that has seen nothing of ``clips`` clips."""
        return Past(clips)

    def latents(self, clips: Tensor, past: Past) -> Tensor:
        """Return what is quantized, or stored, of the next frames: ``[B, t, D, h, w]``."""
        return past.in_time(self.quant_conv(self.encoder(clips, past)))

    def part(self, clips: Tensor, past: Past) -> dict[str, Tensor]:
        """Return ids ``[B, t, h, w]``, or latents with channels last, of the next frames."""
        z = self.latents(clips, past).movedim(2, -1)
        return {"video": self.quantizer.ids(z) if self.quantizer else z}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the clips of tokens.

        Raises:
            JobError: there is no decoder.
        """
        if self.decoder is None or self.post_quant_conv is None:
            raise no_decoder("cosmos")
        z = self.quantizer.codes(tokens["video"]) if self.quantizer else tokens["video"]
        frames = self.post_quant_conv(z.movedim(-1, 2).flatten(0, 1))
        return cast("Tensor", self.decoder(frames, Past(len(z))))

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.decoder, self.post_quant_conv = None, None
