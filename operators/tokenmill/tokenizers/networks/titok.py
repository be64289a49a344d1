"""TiTok, TA-TiTok and One-D-Piece: a ViT that writes an image into a short sequence of latents.

Yu et al., "An Image is Worth 32 Tokens for Reconstruction and Generation" (arXiv 2406.07550); Kim
et al., "Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware
One-dimensional Tokens" (arXiv 2501.07730); Miwa et al., "One-D-Piece" (arXiv 2501.10064).
State-dict keys are those of bytedance/1d-tokenizer, so that its checkpoints load as they are.

Two generations of checkpoints differ in three places, all ruled by `TiTokConfig.is_legacy`:

====================  ======================================  ===========================
place                 legacy (S-128, B-64, L-32, One-D-Piece)  later (vq8k, VAE, TA-TiTok)
====================  ======================================  ===========================
latents to channels   memory read as ``[W, N]`` unpermuted     transposed
decoder's head        1024 logits of a MaskGIT-VQGAN           pixels of each patch
pixels                by that VQGAN's decoder                  directly
====================  ======================================  ===========================
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.networks.titok_config import PIXEL_CODES, SIZES, Size, TiTokConfig


class SelfAttention(nn.Module):
    """Bidirectional multi-head self-attention with the parameter names of nn.MultiheadAttention.

    Not that class itself, because in eval mode it switches to a fused kernel that rounds
    differently, depending on the version and on whether gradients are recorded.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return attended tokens: ``[B, L, W]`` to ``[B, L, W]``."""
        batch, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads = qkv.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return merged


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., W]`` to ``[..., W]``."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, L, W]`` to ``[B, L, W]``."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def _blocks(size: Size) -> nn.ModuleList:
    width, depth, heads = SIZES[size]
    return nn.ModuleList(Block(width, heads) for _ in range(depth))


def embedding(*shape: int) -> nn.Parameter:
    """Return learned vectors of ``shape``, drawn with variance 1 / width."""
    return nn.Parameter(shape[-1] ** -0.5 * torch.randn(*shape))


class TiTokEncoder(nn.Module):
    """Image and learned queries in, one vector per query out."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        patch = config.vit_enc_patch_size
        width = SIZES[config.vit_enc_model_size][0]
        doubled = 2 if config.quantize_mode == "vae" else 1
        self.is_legacy = config.is_legacy
        self.class_embedding = embedding(1, width)
        self.positional_embedding = embedding((config.image_size // patch) ** 2 + 1, width)
        self.latent_token_positional_embedding = embedding(config.num_latent_tokens, width)
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _blocks(config.vit_enc_model_size)
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, doubled * config.token_size, 1)

    def forward(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:
        """Encode ``[B, 3, H, W]`` in [0, 1] with queries ``[N, width]`` to ``[B, C, 1, N]``."""
        batch, count = len(pixels), len(latent_tokens)
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        leading = self.class_embedding.expand(batch, 1, -1)
        image = torch.cat([leading.to(patches.dtype), patches], dim=1) + self.positional_embedding
        queries = latent_tokens + self.latent_token_positional_embedding
        x = self.ln_pre(torch.cat([image, queries.expand(batch, -1, -1).to(image.dtype)], dim=1))
        for block in self.transformer:
            x = block(x)
        latents = self.ln_post(x[:, -count:])
        out: Tensor = self.conv_out(self._as_channels(latents))
        return out.reshape(batch, -1, 1, count)

    def _as_channels(self, latents: Tensor) -> Tensor:
        batch, count, width = latents.shape
        if self.is_legacy:
            # A transpose was forgotten when these were trained: a "channel" mixes tokens. Their
            # ids, and so all their decoders and generators, depend on it.
            return latents.reshape(batch, width, count, 1)
        return latents.transpose(1, 2).unsqueeze(-1)


class PatchesToPixels(nn.Module):
    """Lay ``[B, p*p*3, h, w]`` (row, column, colour within a patch) out as ``[B, 3, h*p, w*p]``."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange; no arithmetic."""
        batch, _, rows, columns = x.shape
        parts = x.view(batch, self.patch, self.patch, 3, rows, columns)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(
            batch, 3, rows * self.patch, columns * self.patch
        )


class TiTokDecoder(nn.Module):
    """Latents (and for TA-TiTok a caption) in; logits of a MaskGIT-VQGAN or pixels out."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        patch, size = config.vit_dec_patch_size, config.vit_dec_model_size
        width = SIZES[size][0]
        self.grid = config.image_size // patch
        self.class_embedding = embedding(1, width)
        self.positional_embedding = embedding(self.grid**2 + 1, width)
        self.mask_token = embedding(1, 1, width)
        self.latent_token_positional_embedding = embedding(config.num_latent_tokens, width)
        self.decoder_embed = nn.Linear(config.token_size, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _blocks(size)
        self.ln_post = nn.LayerNorm(width)
        self.ffn, self.conv_out = _head(config, width)
        if config.text_context_length:
            self.text_guidance_proj = nn.Linear(config.text_embed_dim, width)
            self.text_guidance_positional_embedding = embedding(config.text_context_length, width)

    def forward(self, latents: Tensor, text: Tensor | None = None) -> Tensor:
        """Decode ``[B, C, 1, n]``, any ``n`` up to the token count, with text ``[B, T, D]``."""
        batch, count = len(latents), latents.shape[-1]
        tokens = self.decoder_embed(latents.flatten(1, 2).transpose(1, 2))
        tokens = tokens + self.latent_token_positional_embedding[:count]
        masks = self.mask_token.expand(batch, self.grid**2, -1)
        image = torch.cat([self.class_embedding.expand(batch, 1, -1), masks], dim=1)
        parts = [(image + self.positional_embedding).to(tokens.dtype), tokens]
        if text is not None:
            guidance = self.text_guidance_proj(text) + self.text_guidance_positional_embedding
            parts.append(guidance.to(tokens.dtype))
        x = self.ln_pre(torch.cat(parts, dim=1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x[:, 1 : 1 + self.grid**2])
        maps = x.transpose(1, 2).reshape(batch, -1, self.grid, self.grid)
        out: Tensor = self.conv_out(self.ffn(maps))
        return out


def _head(config: TiTokConfig, width: int) -> tuple[nn.Module, nn.Module]:
    if config.is_legacy:
        logits = nn.Conv2d(2 * width, PIXEL_CODES, 1)
        return nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), logits), nn.Identity()
    patch = config.vit_dec_patch_size
    pixels = nn.Conv2d(width, 3 * patch * patch, 1)
    return nn.Sequential(pixels, PatchesToPixels(patch)), nn.Conv2d(3, 3, 3, padding=1)
