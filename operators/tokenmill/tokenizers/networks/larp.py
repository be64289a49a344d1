"""LARP: a clip as a sequence of ids that learned queries gather.

Wang et al.: LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior
(arXiv:2410.21264), github.com/hywang66/LARP. Transformer blocks as in timm's vision transformer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.larp_config import LarpConfig
from tokenmill.tokenizers.quantize import Floats, code_vectors, look_up, nearest_code

_SIZES = ("hidden_size", "num_heads", "depth")


class SelfAttention(nn.Module):
    """Attention of every token to every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, C]``."""
        batch, count, width = x.shape
        parts = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers, four times as wide between, and GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, C]``."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer block, normalised before its two halves."""

    def __init__(self, width: int, heads: int, *, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, C]``."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Gather(nn.Module):
    """Blocks over a context and queries together, of which the queries come out."""

    def __init__(self, width: int, heads: int, *, depth: int, eps: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, eps=eps) for _ in range(depth))

    def forward(self, context: Tensor, queries: Tensor) -> Tensor:
        """Return ``[B, N of the queries, C]``; ``queries`` may have a batch of 1."""
        x = torch.cat((context, queries.expand(len(context), -1, -1)), dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, context.shape[1] :]


class Patches(nn.Module):
    """Patches of frames, rows and columns to tokens ``[B, N, C]``, in raster order."""

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.encoder_hidden_size, size, stride=size)

    def forward(self, clips: Tensor) -> Tensor:
        """Return ``[B, N, C]`` for ``[B, 3, T, H, W]``."""
        return self.proj(clips).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Codebook(nn.Module):
    """The codes, and the id of the best one for every vector.

    Trained by drawing an id from a softmax of cosines; in use the likeliest is taken, as the
    authors' ``set_vq_eval_deterministic(True)`` does (their default draws also in evaluation).
    """

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.bottleneck_dim)
        self.l2_normalized = config.l2_normalized
        self.sharpness = 1 / config.stochastic_temperature if config.stochastic else None

    def ids(self, z: Tensor) -> Tensor:
        """Return ``int64[B, N]`` for ``[B, N, D]``; always in float32."""
        if self.sharpness is None:
            return nearest_code(z, self.embedding.weight, l2_norm=self.l2_normalized)
        with torch.autocast(z.device.type, enabled=False):
            codes = F.normalize(self.embedding.weight.float(), dim=-1)
            # One sample at a time: a batch of cosines to all codes would be large.
            cosines = (sample @ codes.t() for sample in F.normalize(z.float(), dim=-1))
            return torch.stack([(c * self.sharpness).softmax(-1).argmax(-1) for c in cosines])

    def codes(self, ids: Tensor) -> Tensor:
        """Return float32 ``[B, N, D]``."""
        return look_up(ids, self.embedding.weight, l2_norm=self.l2_normalized)


class Bottleneck(nn.Module):
    """The narrow place between encoder and decoder."""

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        self.in_linear = nn.Linear(config.encoder_hidden_size, config.bottleneck_dim)
        self.regularizer = Codebook(config)
        self.out_linear: nn.Linear | None
        self.out_linear = nn.Linear(config.bottleneck_dim, config.decoder_hidden_size)


class Pixels(nn.Module):
    """The decoder's last layer: tokens to the values of their patches."""

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        values = 3 * config.temporal_patch_size * config.patch_size**2
        self.norm_final = nn.LayerNorm(config.decoder_hidden_size, eps=1e-6)
        self.linear = nn.Linear(config.decoder_hidden_size, values)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, frames * rows * columns * 3]``."""
        return self.linear(self.norm_final(x))  # type: ignore[no-any-return]


class LarpNetwork(nn.Module):
    """Clips ``[B, 3, T, H, W]`` in [0, 1] to ids ``video`` ``[B, n]``, and back."""

    encoder_patch_pe: Tensor
    decoder_latent_pe: Tensor
    decoder_patch_query_embed: Tensor

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        self.config = config
        count, eps, patches = (
            config.bottleneck_token_num,
            config.norm_eps,
            math.prod(config.patches),
        )
        width, heads, depth = (getattr(config, f"encoder_{name}") for name in _SIZES)
        self.x_embedder = Patches(config)
        # Tables of sines and cosines are in the checkpoint, as buffers.
        self.register_buffer("encoder_patch_pe", torch.zeros(1, patches, width))
        self.encoder_latent_query_embed = nn.Parameter(torch.zeros(count, width))
        self.encoder = Gather(width, heads, depth=depth, eps=eps)
        self.bottleneck = Bottleneck(config)
        width, heads, depth = (getattr(config, f"decoder_{name}") for name in _SIZES)
        self.register_buffer("decoder_latent_pe", torch.zeros(1, count, width))
        self.register_buffer("decoder_patch_query_embed", torch.zeros(1, patches, width))
        self.decoder_patch_query_token_type_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder: Gather | None = Gather(width, heads, depth=depth, eps=eps)
        self.final_layer = Pixels(config)

    def drop_decoder(self) -> None:
        """Give up decoding."""
        self.decoder = self.bottleneck.out_linear = None
        for name in ("decoder_latent_pe", "decoder_patch_query_embed", "final_layer"):
            delattr(self, name)
        del self.decoder_patch_query_token_type_embed

    def latents(self, clips: Tensor) -> Tensor:
        """Return what is quantized, ``[B, n, bottleneck_dim]``, not normalised."""
        context = self.x_embedder(clips) + self.encoder_patch_pe
        gathered = self.encoder(context, self.encoder_latent_query_embed[None])
        return self.bottleneck.in_linear(gathered)  # type: ignore[no-any-return]

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the ids in the order of the queries, which generators are trained in."""
        return {"video": self.bottleneck.regularizer.ids(self.latents(clips))}

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, D]``."""
        book = self.bottleneck.regularizer
        return code_vectors(book.embedding.weight, l2_norm=book.l2_normalized)

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the clips that ids stand for.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.decoder is None or self.bottleneck.out_linear is None:
            raise no_decoder("larp")
        codes = self.bottleneck.regularizer.codes(tokens["video"])
        context = self.bottleneck.out_linear(codes) + self.decoder_latent_pe
        queries = self.decoder_patch_query_embed + self.decoder_patch_query_token_type_embed
        return self._placed(self.final_layer(self.decoder(context, queries)))

    def _placed(self, patches: Tensor) -> Tensor:
        """Put patches, whose values are by frame, row, column and colour, into their places."""
        t, h, w = self.config.patches
        length, side = self.config.temporal_patch_size, self.config.patch_size
        x = patches.reshape(-1, t, h, w, length, side, side, 3).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.reshape(len(patches), 3, t * length, h * side, w * side)
