"""Autoencoders on the convolutional trunk: vector-quantised, Gumbel, and Kullback-Leibler ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from tokenmill.tokenizers.images import no_decoder
from tokenmill.tokenizers.networks.conv import Decoder, Encoder, Trunk
from tokenmill.tokenizers.quantize import Floats, code_vectors, look_up, nearest_code

STREAM = "image"
#: Prefixes of everything that only decoding needs, which a checkpoint may lack.
DECODING = ("decoder.", "post_quant_conv.")


@dataclass(frozen=True, slots=True)
class Codebook:
    """``size`` codes of ``width`` values; ``l2_norm``: all on the unit sphere."""

    size: int
    width: int
    l2_norm: bool = False


class ConvAutoencoder(nn.Module):
    """Encoder and decoder with the 1 x 1 convolutions between trunk and latent.

    Args:
        encoder: sizes of the encoder.
        decoder: sizes of the decoder.
        width: channels of the latent, which ``quant_conv`` makes (``moments`` of them where it
            makes more than one parameter per channel).
    """

    def __init__(self, encoder: Trunk, decoder: Trunk, *, width: int, moments: int = 1) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.decoder: Decoder | None = Decoder(decoder)
        self.quant_conv = nn.Conv2d(encoder.channels[1], moments * width, 1)
        self.post_quant_conv: nn.Conv2d | None = nn.Conv2d(width, decoder.channels[1], 1)

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.decoder, self.post_quant_conv = None, None

    def latents(self, images: Tensor) -> Tensor:
        """Return what the quantiser gets: ``[B, moments * width, h, w]``."""
        return cast("Tensor", self.quant_conv(self.encoder(images)))

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Return the pictures of ``[B, width, h, w]``.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.decoder is None or self.post_quant_conv is None:
            raise no_decoder(type(self).__name__)
        return cast("Tensor", self.decoder(self.post_quant_conv(latents)))


class VectorQuantizer(nn.Module):
    """Ids by the nearest code (van den Oord et al. 2017); see `nearest_code` for the arithmetic."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook.size, codebook.width)
        self.l2_norm = codebook.l2_norm

    def ids(self, z: Tensor) -> Tensor:
        """Map ``[B, C, h, w]`` to ``int64[B, h, w]``."""
        return nearest_code(z.permute(0, 2, 3, 1), self.embedding.weight, l2_norm=self.l2_norm)

    def codes(self, ids: Tensor) -> Tensor:
        """Map ``int64[B, h, w]`` to ``[B, C, h, w]``."""
        return look_up(ids, self.embedding.weight, l2_norm=self.l2_norm).permute(0, 3, 1, 2)

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, C]``."""
        return code_vectors(self.embedding.weight, l2_norm=self.l2_norm)


class GumbelQuantizer(nn.Module):
    """Ids by the largest logit.

    The official code samples them with Gumbel noise, in evaluation too; without the noise that is
    this argmax, which is what a store of tokens wants: the same picture, the same ids.
    """

    def __init__(self, codebook: Codebook, *, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(hidden, codebook.size, 1)
        self.embed = nn.Embedding(codebook.size, codebook.width)

    def ids(self, z: Tensor) -> Tensor:
        """Map ``[B, C, h, w]`` to ``int64[B, h, w]``."""
        with torch.autocast(z.device.type, enabled=False):
            logits: Tensor = self.proj(z.float())
            return logits.argmax(dim=1)

    def codes(self, ids: Tensor) -> Tensor:
        """Map ``int64[B, h, w]`` to ``[B, C, h, w]``."""
        return look_up(ids, self.embed.weight).permute(0, 3, 1, 2)

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, C]``."""
        return code_vectors(self.embed.weight)


class IdAutoencoder(ConvAutoencoder):
    """An autoencoder whose tokens are ids; an `tokenmill.tokenizers.images.ImageNetwork`."""

    def __init__(
        self, encoder: Trunk, decoder: Trunk, *, codebook: Codebook, gumbel: bool = False
    ) -> None:
        super().__init__(encoder, decoder, width=codebook.width)
        self.quantize: VectorQuantizer | GumbelQuantizer = (
            GumbelQuantizer(codebook, hidden=codebook.width)
            if gumbel
            else VectorQuantizer(codebook)
        )

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ids ``int64[B, h, w]``."""
        return {STREAM: self.quantize.ids(self.latents(images))}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the pictures of ids ``[B, h, w]``."""
        return self.reconstruct(self.quantize.codes(tokens[STREAM]))

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, C]``."""
        return self.quantize.code_vectors()


class KLAutoencoder(ConvAutoencoder):
    """An autoencoder whose tokens are a Gaussian's mean, or mean and log-variance.

    Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models (CVPR 2022).
    The log-variance is clamped to [-30, 20], as their posterior does. Nothing is sampled.
    """

    def __init__(
        self,
        encoder: Trunk,
        decoder: Trunk,
        *,
        width: int,
        posterior: Literal["mean", "mean_logvar"],
    ) -> None:
        super().__init__(encoder, decoder, width=width, moments=2)
        self.width, self.posterior = width, posterior

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return the latent, channels last: ``[B, h, w, width or 2 * width]``."""
        moments = self.latents(images).float()
        mean, logvar = torch.split(moments, self.width, dim=1)
        kept = mean
        if self.posterior == "mean_logvar":
            kept = torch.cat([mean, logvar.clamp(-30.0, 20.0)], dim=1)
        return {STREAM: kept.permute(0, 2, 3, 1)}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the pictures of the means."""
        return self.reconstruct(tokens[STREAM][..., : self.width].permute(0, 3, 1, 2))
