"""The whole of TiTok: encoder, quantizer, decoder and, for the legacy ones, a VQGAN's decoder."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.networks.conv_autoencoder import Codebook, VectorQuantizer
from tokenmill.tokenizers.networks.conv_maskgit import MaskGITDecoder, MaskGITSizes
from tokenmill.tokenizers.networks.titok import TiTokDecoder, TiTokEncoder, embedding
from tokenmill.tokenizers.networks.titok_config import PIXEL_CODES, SIZES, TiTokConfig
from tokenmill.tokenizers.quantize import Floats
from tokenmill_schemas.errors import JobError

STREAM = "image"
#: Name under which `TiTokNetwork.images` takes TA-TiTok's caption embeddings.
TEXT = "text"
#: The MaskGIT-VQGAN whose decoder a legacy TiTok was finetuned with.
PIXELS = MaskGITSizes(widths=(128, 128, 256, 256, 512), num_res_blocks=2, z_channels=256)

Posterior = Literal["mean", "mean_logvar"]


class TiTokNetwork(nn.Module):
    """An `tokenmill.tokenizers.images.ImageNetwork` on pictures in [0, 1].

    Args:
        config: the architecture.
        posterior: what a VAE's `tokens` are; nothing is ever sampled.
    """

    def __init__(self, config: TiTokConfig, *, posterior: Posterior = "mean") -> None:
        super().__init__()
        self.config, self.posterior = config, posterior
        self.encoder = TiTokEncoder(config)
        self.decoder: TiTokDecoder | None = TiTokDecoder(config)
        width = SIZES[config.vit_enc_model_size][0]
        self.latent_tokens = embedding(config.num_latent_tokens, width)
        if config.quantize_mode == "vq":
            self.quantize = VectorQuantizer(
                Codebook(config.codebook_size, config.token_size, l2_norm=config.use_l2_norm)
            )
        if config.finetune_decoder:
            self.pixel_quantize = VectorQuantizer(Codebook(PIXEL_CODES, PIXELS.z_channels))
            self.pixel_decoder = MaskGITDecoder(PIXELS)

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.decoder = None
        if self.config.finetune_decoder:
            del self.pixel_quantize, self.pixel_decoder

    def latents(self, images: Tensor) -> Tensor:
        """Return what the quantizer gets, ``float32[B, C, 1, N]`` (a VAE's moments: 2 C)."""
        return cast("Tensor", self.encoder(images, self.latent_tokens)).float()

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return ids ``int64[B, N]``, or a VAE's values ``float32[B, N, C or 2 C]``."""
        latents = self.latents(images)
        if self.config.quantize_mode == "vq":
            return {STREAM: self.quantize.ids(latents).squeeze(1)}
        mean, logvar = latents.squeeze(2).transpose(1, 2).chunk(2, dim=-1)
        if self.posterior == "mean":
            return {STREAM: mean}
        return {STREAM: torch.cat([mean, logvar.clamp(-30.0, 20.0)], dim=-1)}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return pictures ``[B, 3, H, W]`` of all tokens or, with ``tail_drop``, of a prefix.

        TA-TiTok also needs ``tokens["text"]``, ``float32[B, T, D]``: the hidden states of its
        caption after the last norm of CLIP ViT-L/14-336's text encoder (OpenAI's weights).

        Raises:
            JobError: no decoder, too few or too many tokens, or no caption where one is needed.
        """
        if self.decoder is None or not self.config.draws_pixels:
            raise no_decoder("titok")
        text = self._text(tokens)
        decoded: Tensor = self.decoder(self._codes(tokens[STREAM]), text)
        if not self.config.finetune_decoder:
            return decoded
        # Not the likeliest code but the mean code: the VQGAN's decoder was finetuned on these.
        weights = decoded.float().softmax(dim=1)
        mixed = torch.einsum("nkhw,kd->ndhw", weights, self.pixel_quantize.embedding.weight)
        return cast("Tensor", self.pixel_decoder(mixed))

    def code_vectors(self) -> Floats | None:
        """Return all codes ``float32[K, C]``, None of a VAE."""
        return self.quantize.code_vectors() if self.config.quantize_mode == "vq" else None

    def _codes(self, values: Tensor) -> Tensor:
        """Return the decoder's input ``[B, C, 1, n]`` of stored tokens."""
        count, whole = values.shape[1], self.config.num_latent_tokens
        if not (count == whole or (self.config.tail_drop and 0 < count < whole)):
            takes = f"1 to {whole}" if self.config.tail_drop else f"whole sequences of {whole}"
            raise JobError(f"this titok decodes {takes} tokens, got {count}")
        if self.config.quantize_mode == "vq":
            return self.quantize.codes(values.unsqueeze(1))
        return values[..., : self.config.token_size].transpose(1, 2).unsqueeze(2)

    def _text(self, tokens: dict[str, Tensor]) -> Tensor | None:
        if not self.config.text_context_length:
            return None
        if TEXT not in tokens:
            shape = (self.config.text_context_length, self.config.text_embed_dim)
            raise JobError(
                "TA-TiTok's decoder reads a caption; pass its CLIP ViT-L/14-336 text embeddings "
                f"as tokens[{TEXT!r}], float32[B, {shape[0]}, {shape[1]}]"
            )
        return tokens[TEXT]
