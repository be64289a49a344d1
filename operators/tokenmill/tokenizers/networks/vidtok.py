"""VidTok: video autoencoders with finite scalar quantization, causal ones in bounded memory.

Tang et al.: VidTok: A Versatile and Open-Source Video Tokenizer (arXiv:2412.13061),
github.com/microsoft/VidTok; quantization by Mentzer et al. (arXiv:2309.15505). Residual blocks of
every frame alternate with residual blocks along time; the causal networks see no later frame, so a
clip can go through in parts, with what the layers keep of the part before (`Past`), and gives the
ids of the whole clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.vidtok_config import VidTokConfig
from tokenmill.tokenizers.networks.vidtok_layers import (
    Attention,
    ChannelNorm,
    DoubleSpace,
    DoubleTime,
    FrameConv,
    HalveSpace,
    HalveTime,
    Past,
    Residual,
    conv1d,
    conv3d,
)

#: Frames that go through an encoder at a time; a multiple of every variant's frames per position.
PART_FRAMES = 8
#: Positions in time that go through a decoder at a time: more than one, because only then the
#: frames of the first are known to be followed by others.
PART_SLOTS = 4


class Middle(nn.Module):
    """What encoder and decoder have at the lowest resolution."""

    def __init__(self, channels: int, config: VidTokConfig) -> None:
        super().__init__()
        conv = conv3d(config.time_padding)
        self.block_1 = Residual(channels, channels, conv)
        self.attn_1 = Attention(channels, conv)
        self.block_2 = Residual(channels, channels, conv)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return ``[B, C, T, H, W]``."""
        h = self.attn_1(self.block_1(x, past), past)
        return self.block_2(h, past)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """The blocks of one level, in one of the two places where state dicts have them."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)


class Encoder(nn.Module):
    """Frames ``[B, 3, T, H, W]`` to latents ``[B, len(levels), T / ft, H / f, W / f]``."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        time, widths = config.time_padding, config.widths
        conv = conv3d(time)
        self.conv_in = conv(3, config.ch)
        self.down, self.down_temporal = nn.ModuleList(), nn.ModuleList()
        for level, (before, width) in enumerate(pairwise((config.ch, *widths))):
            inputs = (before, *(width,) * (config.num_res_blocks - 1))
            down = Stage([Residual(channels, width, FrameConv) for channels in inputs])
            temporal = Stage([Residual(width, width, conv1d(time)) for _ in inputs])
            if level < len(widths) - 1:
                down.downsample = HalveSpace(width)
            if level in config.halved:
                temporal.downsample = HalveTime(width, time)
            self.down.append(down)
            self.down_temporal.append(temporal)
        self.mid = Middle(widths[-1], config)
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = conv(widths[-1], len(config.levels))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return the latents of the next part of a clip, a whole number of positions long."""
        h = self.conv_in(x, past)
        for down, temporal in zip(self.down, self.down_temporal, strict=True):
            for of_frame, along_time in zip(down.block, temporal.block, strict=True):  # type: ignore[arg-type]
                h = along_time(of_frame(h, past), past)
            halve_space, halve_time = (getattr(s, "downsample", None) for s in (down, temporal))
            h = halve_space(h) if halve_space else h
            h = halve_time(h, past) if halve_time else h
        h = self.mid(h, past)
        return self.conv_out(F.silu(self.norm_out(h)), past)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Codes ``[B, len(levels), t, h, w]`` to frames ``[B, 3, ft t, f h, f w]``."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        time, widths = config.time_padding, config.widths
        conv = conv3d(time)
        self.conv_in = conv(len(config.levels), widths[-1])
        self.mid = Middle(widths[-1], config)
        ups: list[nn.Module] = []
        temporals: list[nn.Module] = []
        before, head = widths[-1], 1
        for level, width in reversed([*enumerate(widths)]):
            inputs = (before, *(width,) * config.num_res_blocks)
            before = width
            up = Stage([Residual(channels, width, FrameConv) for channels in inputs])
            temporal = Stage([Residual(width, width, conv1d(time)) for _ in inputs])
            if level > 0:
                up.upsample = DoubleSpace(width)
            if level in config.doubled:
                temporal.upsample = DoubleTime(width, time, head=head)
                head *= 2
            ups.append(up)
            temporals.append(temporal)
        # State dicts number the levels as the encoder does.
        self.up = nn.ModuleList(reversed(ups))
        self.up_temporal = nn.ModuleList(reversed(temporals))
        self.norm_out = ChannelNorm(widths[0])
        self.conv_out = conv(widths[0], 3)

    def forward(self, z: Tensor, past: Past) -> Tensor:
        """Return the frames of the next part, those of ``past.ahead`` positions included."""
        h = self.mid(self.conv_in(z, past), past)
        for up, temporal in zip(reversed(self.up), reversed(self.up_temporal), strict=True):
            for of_frame, along_time in zip(up.block, temporal.block, strict=True):  # type: ignore[arg-type]
                h = along_time(of_frame(h, past), past)
            double_space, double_time = (getattr(s, "upsample", None) for s in (up, temporal))
            h = double_space(h) if double_space else h
            h = double_time(h, past) if double_time else h
        return self.conv_out(F.silu(self.norm_out(h)), past)  # type: ignore[no-any-return]


class VidTokNetwork(nn.Module):
    """Clips ``[B, 3, T, H, W]`` in [-1, 1] to ids ``video`` ``[B, t, h, w]``, and back."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder: Decoder | None = Decoder(config)

    def drop_decoder(self) -> None:
        """Give up decoding."""
        self.decoder = None

    def past(self) -> Past:
        """Return what a clip that has not begun leaves behind."""
        return Past(self.config.time_padding)

    def latents(self, clips: Tensor) -> Tensor:
        """Return what is quantized, ``[B, t, h, w, len(levels)]`` float32, for whole clips."""
        past = self.past()
        return torch.cat([self.part_latents(part, past) for part in self._parts(clips)], dim=1)

    def part_latents(self, frames: Tensor, past: Past) -> Tensor:
        """Return the latents of the next frames, ``[B, t, h, w, len(levels)]`` float32."""
        return self.encoder(frames, past).movedim(1, -1).float()  # type: ignore[no-any-return]

    def part_tokens(self, frames: Tensor, past: Past) -> Tensor:
        """Return the ids of the next frames, ``int64[B, t, h, w]``."""
        return fsq_ids(self.part_latents(frames, past), self.config.levels)

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the ids of whole clips.

        Raises:
            ValueError: the clips are of a length that the network does not take.
        """
        past = self.past()
        parts = [self.part_tokens(part, past) for part in self._parts(clips)]
        return {"video": torch.cat(parts, dim=1)}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the frames that ids stand for, without those that only filled the first position.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.decoder is None:
            raise no_decoder("vidtok")
        z = fsq_codes(tokens["video"], self.config.levels).movedim(-1, 1)
        frames = torch.cat(list(self._decoded(self.decoder, z)), dim=2)
        return frames[:, :, self.config.time_factor - 1 :] if self.config.causal else frames

    def _parts(self, clips: Tensor) -> Iterator[Tensor]:
        self.config.frames.slots(clips.shape[2])
        if not self.config.causal:
            yield clips
            return
        fill = clips[:, :, :1].expand(-1, -1, self.config.time_factor - 1, -1, -1)
        yield from torch.split(torch.cat((fill, clips), dim=2), PART_FRAMES, dim=2)

    def _decoded(self, decoder: Decoder, z: Tensor) -> Iterator[Tensor]:
        past, count = self.past(), z.shape[2]
        size = PART_SLOTS if self.config.causal else count
        for start in range(0, count, size):
            end = min(start + size, count)
            # Linear interpolation looks one position ahead; repetition does not.
            past.ahead = ahead = int(self.config.time_padding == "first" and end < count)
            frames = decoder(z[:, :, start : end + ahead], past)
            yield frames[:, :, : (end - start) * self.config.time_factor]


def fsq_ids(z: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return the ids of latents by finite scalar quantization, the first channel least significant.

    Each channel is bounded by a tanh, a thousandth wider than its ``levels`` and shifted by half a
    level where their number is even, and rounded half to even.

    Args:
        z: float32 ``[..., len(levels)]``.
        levels: number of values of every channel.

    Returns:
        ``int64[...]``.
    """
    sizes = torch.tensor(levels, device=z.device)
    half = (sizes - 1) * (1 + 1e-3) / 2
    offset = torch.where(sizes % 2 == 0, 0.5, 0.0)
    with torch.autocast(z.device.type, enabled=False):
        bounded = (z + (offset / half).atanh()).tanh() * half - offset
    digits = bounded.round().long() + sizes // 2
    return (digits * _basis(sizes)).sum(dim=-1)


def fsq_codes(ids: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return the values of ids, float32 ``[..., len(levels)]`` in [-1, 1]."""
    sizes = torch.tensor(levels, device=ids.device)
    digits = ids.unsqueeze(-1) // _basis(sizes) % sizes
    return (digits - sizes // 2).float() / (sizes // 2)


def _basis(sizes: Tensor) -> Tensor:
    return torch.cat((sizes.new_ones(1), sizes[:-1])).cumprod(0)
