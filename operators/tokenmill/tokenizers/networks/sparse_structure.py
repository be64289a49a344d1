"""The dense 3D convolutional autoencoder of occupancy grids: sparse structure of TRELLIS.

Xiang et al.: Structured 3D Latents for Scalable and Versatile 3D Generation (TRELLIS, CVPR 2025),
github.com/microsoft/TRELLIS; Ye et al.: ShapeLLM-Omni (arXiv:2506.01853),
github.com/JAMESYJL/ShapeLLM-Omni, puts a codebook between its two halves. Residual blocks with
normalisation over channels, strided convolutions down, 3D pixel shuffle up. Parameter names are
the official ones.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.sparse_structure_config import SparseStructureConfig
from tokenmill.tokenizers.quantize import Floats, code_vectors

Posterior = Literal["mean", "mean_logvar"]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over axis 1, in float32 whatever the input's type."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as the parent has it
        """Return ``[B, C, X, Y, Z]`` normalised at every position, in its own type."""
        last: Tensor = super().forward(input.float().movedim(1, -1))
        return last.movedim(-1, 1).to(input.dtype)


class TorsoConv(nn.Conv3d):
    """A convolution whose weights may be float16 on a CPU too.

    There its inputs and weights, already rounded to float16, are multiplied and summed in float32
    and the result is rounded: what GPUs do inside, and 70 times faster than PyTorch's own.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as the parent has it
        """Return the convolved ``[B, C, X, Y, Z]``."""
        if input.device.type != "cpu" or input.dtype != torch.float16:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        return F.conv3d(
            input.float(), self.weight.float(), bias, stride=self.stride, padding=self.padding
        ).half()


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)
        self.conv1 = TorsoConv(channels, channels, 3, padding=1)
        self.conv2 = TorsoConv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C, X, Y, Z]`` of the same shape."""
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h.add_(x)


class Downsample(nn.Module):
    """Every 2 x 2 x 2 cells become one."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = TorsoConv(channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return half the grid."""
        result: Tensor = self.conv(x)
        return result


class Upsample(nn.Module):
    """Eight times the channels, which become 2 x 2 x 2 cells (3D pixel shuffle)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = TorsoConv(channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the doubled grid."""
        h: Tensor = self.conv(x).unflatten(1, (-1, 2, 2, 2))
        h = h.permute(0, 1, 5, 2, 6, 3, 7, 4)
        return h.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class _Half(nn.Module):
    """What encoder and decoder share: the blocks between first and last layer, and their type."""

    blocks: nn.ModuleList
    middle_block: nn.Sequential
    torso: torch.dtype = torch.float32

    def set_torso(self, dtype: torch.dtype) -> None:
        """Run all convolutions but the first and last in ``dtype``, as the authors do."""
        self.torso = dtype
        for part in (self.blocks, self.middle_block):
            for module in part.modules():
                if isinstance(module, TorsoConv):
                    module.to(dtype)


def _residual(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


def _last(channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv3d(channels, out_channels, 3, padding=1)
    return nn.Sequential(ChannelNorm(channels), nn.SiLU(), conv)


class Encoder(_Half):
    """Occupancy ``[B, 1, R, R, R]`` to mean and log-variance, stacked on the channel axis."""

    def __init__(self, config: SparseStructureConfig) -> None:
        super().__init__()
        widths = config.channels
        self.input_layer = nn.Conv3d(1, widths[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            blocks += _residual(width, config.num_res_blocks)
            if level + 1 < len(widths):
                blocks.append(Downsample(width, widths[level + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.middle_block = nn.Sequential(*_residual(widths[-1], config.num_res_blocks_middle))
        self.out_layer = _last(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, 2 * latent channels, R / factor, ...]``."""
        h = self.input_layer(x).to(self.torso)
        for block in self.blocks:
            h = block(h)
        moments: Tensor = self.out_layer(self.middle_block(h).to(x.dtype))
        return moments


class Decoder(_Half):
    """Latents ``[B, C, r, r, r]`` to occupancy logits ``[B, 1, R, R, R]``; above 0 is occupied."""

    def __init__(self, config: SparseStructureConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        self.input_layer = nn.Conv3d(config.latent_channels, widths[0], 3, padding=1)
        self.middle_block = nn.Sequential(*_residual(widths[0], config.num_res_blocks_middle))
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            blocks += _residual(width, config.num_res_blocks)
            if level + 1 < len(widths):
                blocks.append(Upsample(width, widths[level + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.out_layer = _last(widths[-1], 1)

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits."""
        h = self.middle_block(self.input_layer(z).to(self.torso))
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.out_layer(h.to(z.dtype))
        return logits


class LatentVolumes(nn.Module):
    """TRELLIS's autoencoder: a float stream ``shape`` of latents, channels last.

    Its halves come from two files, whose keys have no prefix.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder | None, *, posterior: Posterior = "mean"
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior

    def set_torso(self, dtype: torch.dtype) -> None:
        """See `_Half.set_torso`."""
        for half in (self.encoder, self.decoder):
            if half is not None:
                half.set_torso(dtype)

    def tokens(self, volumes: Tensor) -> dict[str, Tensor]:
        """Return ``[B, x, y, z, C]``: the mean, or mean and log-variance."""
        moments = self.encoder(volumes)
        kept = moments if self.posterior == "mean_logvar" else moments.chunk(2, dim=1)[0]
        return {"shape": kept.movedim(1, -1)}

    def logits(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the logits of the latents' mean.

        Raises:
            JobError: there is no decoder.
        """
        if self.decoder is None:
            raise no_decoder("trellis_ss")
        z = tokens["shape"].movedim(-1, 1)
        mean = z.chunk(2, dim=1)[0] if self.posterior == "mean_logvar" else z
        logits: Tensor = self.decoder(mean.contiguous())
        return logits


class Codebook(nn.Module):
    """``embeddings.weight``, and the nearest entry as the authors search it."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(size, width)

    def nearest(self, z: Tensor) -> Tensor:
        """Return ``int64[B, N]`` for ``[B, N, D]``, the first of equals.

        By the rooted distance (``torch.cdist``), whose rounding makes ties that the squared one
        does not have. Distances are held for one sample at a time.
        """
        codes = self.embeddings.weight
        return torch.stack([torch.cdist(rows, codes).argmin(dim=1) for rows in z])


class TokenVolumes(nn.Module):
    """ShapeLLM-Omni's 3D VQ-VAE: a stream ``shape`` of ids.

    One id stands for ``group`` latents that are neighbours along z: with latents ``[B, x, y, z,
    C]`` in memory order, the rows are cut every ``group * C`` values.
    """

    def __init__(self, config: SparseStructureConfig, num_embeddings: int, group: int) -> None:
        super().__init__()
        self.Encoder = Encoder(config)
        self.Decoder: Decoder | None = Decoder(config)
        self.vq = Codebook(num_embeddings, group * config.latent_channels)
        self.grid = (config.side,) * 3 + (config.latent_channels,)

    def drop_decoder(self) -> None:
        """Forget the decoder, whose weights the checkpoint lacks."""
        self.Decoder = None

    def set_torso(self, dtype: torch.dtype) -> None:
        """See `_Half.set_torso`."""
        for half in (self.Encoder, self.Decoder):
            if half is not None:
                half.set_torso(dtype)

    def latents(self, volumes: Tensor) -> Tensor:
        """Return the mean ``[B, C, x, y, z]``."""
        moments: Tensor = self.Encoder(volumes)
        return moments.chunk(2, dim=1)[0]

    def tokens(self, volumes: Tensor) -> dict[str, Tensor]:
        """Return the ids ``[B, N]``."""
        z = self.latents(volumes).movedim(1, -1)
        rows = z.reshape(len(z), -1, self.vq.embeddings.embedding_dim)
        return {"shape": self.vq.nearest(rows.float())}

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, group * C]``."""
        return code_vectors(self.vq.embeddings.weight)

    def logits(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the logits ``[B, 1, R, R, R]`` of ids ``[B, N]``.

        Raises:
            JobError: the checkpoint has no decoder.
        """
        if self.Decoder is None:
            raise no_decoder("shapellm_vqvae")
        rows = self.vq.embeddings(tokens["shape"])
        z = rows.reshape(len(rows), *self.grid).movedim(-1, 1)
        logits: Tensor = self.Decoder(z.contiguous())
        return logits
