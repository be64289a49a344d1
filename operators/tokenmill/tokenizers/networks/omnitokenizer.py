"""OmniTokenizer's network: patches, attention in space, attention over time, a codebook."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.omnitokenizer_config import OmniConfig
from tokenmill.tokenizers.networks.omnitokenizer_layers import Transformer
from tokenmill.tokenizers.quantize import Floats, code_vectors, look_up, nearest_code

_LOGVAR_RANGE = (-30.0, 20.0)


class Encoder(nn.Module):
    """Pixels to a vector per position."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.patch = (config.temporal_patch_size, config.patch_size)
        self.to_patch_emb_first_frame = _embedding(config, 1)
        self.to_patch_emb = _embedding(config, config.temporal_patch_size)
        self.enc_spatial_transformer = Transformer(config, config.enc_block, spatial=True)
        self.enc_temporal_transformer = Transformer(
            config, "t" * config.temporal_depth, spatial=False
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Map ``[B, 3, T, H, W]`` to ``[B, t, h, w, D]``."""
        frames, side = self.patch
        x = self.to_patch_emb_first_frame(_patches(clips[:, :, :1], 1, side))
        if clips.shape[2] > 1:
            rest = self.to_patch_emb(_patches(clips[:, :, 1:], frames, side))
            x = torch.cat([x, rest], dim=1)
        return _in_time(self.enc_temporal_transformer, _in_space(self.enc_spatial_transformer, x))


class Decoder(nn.Module):
    """A vector per position to pixels."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.patch = (config.temporal_patch_size, config.patch_size)
        self.dec_spatial_transformer = Transformer(config, config.dec_block, spatial=True)
        self.dec_temporal_transformer = Transformer(
            config, "t" * config.temporal_depth, spatial=False
        )
        values = 3 * config.patch_size**2
        self.to_pixels_first_frame = nn.Sequential(nn.Linear(config.embedding_dim, values))
        self.to_pixels = nn.Sequential(
            nn.Linear(config.embedding_dim, values * config.temporal_patch_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, t, h, w, D]`` to ``[B, 3, T, H, W]``."""
        frames, side = self.patch
        x = _in_space(self.dec_spatial_transformer, _in_time(self.dec_temporal_transformer, x))
        clips = _pixels(self.to_pixels_first_frame(x[:, :1]), 1, side)
        if x.shape[1] > 1:
            rest = _pixels(self.to_pixels(x[:, 1:]), frames, side)
            clips = torch.cat([clips, rest], dim=2)
        return clips


def _embedding(config: OmniConfig, frames: int) -> nn.Sequential:
    """Return the embedding of patches; its children have the official numbers, from 1."""
    values = 3 * frames * config.patch_size**2
    return nn.Sequential(
        nn.Identity(),
        nn.LayerNorm(values),
        nn.Linear(values, config.embedding_dim),
        nn.LayerNorm(config.embedding_dim),
    )


def _patches(clips: Tensor, frames: int, side: int) -> Tensor:
    """Return ``[B, 3, T, H, W]`` as ``[B, t, h, w, 3 * frames * side * side]``."""
    batch, channels, length, height, width = clips.shape
    cut = (length // frames, frames, height // side, side, width // side, side)
    x = clips.reshape(batch, channels, *cut)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _pixels(x: Tensor, frames: int, side: int) -> Tensor:
    """Undo `_patches`."""
    x = x.reshape(*x.shape[:4], 3, frames, side, side).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _in_space(transformer: nn.Module, x: Tensor) -> Tensor:
    """Run over the positions of every frame of ``[B, t, h, w, D]``."""
    batch, time, height, width, _ = x.shape
    done = transformer(x.flatten(2, 3).flatten(0, 1), (batch, time, height, width))
    return cast("Tensor", done).reshape(x.shape)


def _in_time(transformer: nn.Module, x: Tensor) -> Tensor:
    """Run over the frames of every position of ``[B, t, h, w, D]``."""
    batch, time, height, width, dim = x.shape
    rows = x.permute(0, 2, 3, 1, 4).reshape(-1, time, dim)
    done = cast("Tensor", transformer(rows, (batch, time, height, width)))
    return done.reshape(batch, height, width, time, dim).permute(0, 3, 1, 2, 4)


class Codebook(nn.Module):
    """The codes as they are stored, which are not of length one."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.zeros(count, dim))


class OmniNetwork(nn.Module):
    """A `tokenmill.tokenizers.clips.ClipNetwork` with the stream ``video``."""

    def __init__(self, config: OmniConfig, *, with_logvar: bool = False) -> None:
        super().__init__()
        self.frames = Frames(1, config.temporal_patch_size)
        self.l2_code, self.with_logvar = config.l2_code, with_logvar
        self.encoder = Encoder(config)
        width = config.codebook_dim
        self.pre_vq_conv = nn.Sequential(
            nn.Identity(), nn.Linear(config.embedding_dim, width * (2 if config.use_vae else 1))
        )
        self.codebook = None if config.use_vae else Codebook(config.n_codes, width)
        self.post_vq_conv: nn.Module | None = nn.Sequential(
            nn.Identity(), nn.Linear(width, config.embedding_dim)
        )
        self.decoder: nn.Module | None = Decoder(config)

    def latents(self, clips: Tensor) -> Tensor:
        """Return what is quantized, or the Gaussian's moments: ``float32[B, t, h, w, D]``.

        Raises:
            ValueError: the tokenizer takes no clips of this length.
        """
        self.frames.slots(clips.shape[2])
        z = cast("Tensor", self.pre_vq_conv(self.encoder(clips))).float()
        return F.normalize(z, dim=-1) if self.codebook is not None and self.l2_code else z

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return ids ``[B, t, h, w]``, or latents with channels last."""
        z = self.latents(clips)
        if self.codebook is not None:
            return {"video": nearest_code(z, self.codebook.embeddings)}
        mean, logvar = z.chunk(2, dim=-1)
        if self.with_logvar:
            mean = torch.cat([mean, logvar.clamp(*_LOGVAR_RANGE)], dim=-1)
        return {"video": mean}

    def code_vectors(self) -> Floats | None:
        """Return all codes ``float32[K, D]``, None of a VAE."""
        return None if self.codebook is None else code_vectors(self.codebook.embeddings)

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the clips of tokens.

        Raises:
            JobError: there is no decoder.
        """
        if self.decoder is None or self.post_vq_conv is None:
            raise no_decoder("omnitokenizer")
        z = tokens["video"]
        if self.codebook is not None:
            z = look_up(z, self.codebook.embeddings)
        elif self.with_logvar:
            z = z.chunk(2, dim=-1)[0]
        return cast("Tensor", self.decoder(self.post_vq_conv(z)))

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.decoder, self.post_vq_conv = None, None
