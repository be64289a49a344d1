"""LlamaGen's VQ tokenizers, which Janus and many other autoregressive generators use too.

Sun et al.: Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation
(arXiv:2406.06525), github.com/FoundationVision/LlamaGen. Ids are the nearest of 16384 codes of 8
values on the unit sphere, in raster order. Their own scripts turn TF32 on; here it stays off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import (
    HALF,
    Dtype,
    Weights,
    conv_resources,
    grid,
    identity_of,
)
from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.conv_autoencoder import IdAutoencoder


@dataclass(frozen=True, slots=True)
class LlamaGenConfig:
    """Architecture, by the official names; ``ch`` and ``num_res_blocks`` are fixed there."""

    encoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    codebook_l2_norm: bool = True
    z_channels: int = 256
    ch: int = 128
    num_res_blocks: int = 2

    def __post_init__(self) -> None:
        if self.ch % 32 or self.ch < 32:
            raise ValueError(f"ch must be a multiple of 32 (group normalisation), got {self.ch}")
        if len(self.encoder_ch_mult) != len(self.decoder_ch_mult) or not self.encoder_ch_mult:
            raise ValueError("encoder_ch_mult and decoder_ch_mult need the same number of levels")

    @property
    def factor(self) -> int:
        """Pixels per position on each side."""
        return 1 << (len(self.encoder_ch_mult) - 1)


VARIANTS: dict[str, dict[str, Any]] = {
    "VQ-16": {},
    "VQ-8": {"encoder_ch_mult": (1, 2, 2, 4), "decoder_ch_mult": (1, 2, 2, 4)},
}
OFFICIAL = {
    "VQ-16": "hf://FoundationVision/LlamaGen/vq_ds16_c2i.pt",
    "VQ-8": "hf://FoundationVision/LlamaGen/vq_ds8_c2i.pt",
}


@dataclass(frozen=True, slots=True)
class LlamaGen:
    """A LlamaGen VQ tokenizer: one stream ``image`` of ids on a grid.

    Attributes:
        variant: ``VQ-16`` (16 x 16 pixels per id) or ``VQ-8``.
        checkpoint: the weights; the authors' class-conditional ones if empty. A Janus checkpoint
            is taken as it is: the keys under ``gen_vision_model.`` are used.
        config: changes to `LlamaGenConfig`.
        dtype: ``float32`` gives the official ids; the others are faster and flip near-ties.
        ema: take the moving average of a training checkpoint that holds both.
    """

    variant: Literal["VQ-16", "VQ-8"] = "VQ-16"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"
    ema: bool = False

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> LlamaGenConfig:
        """The variant with the changes of ``config``."""
        return build(
            LlamaGenConfig, {**VARIANTS[self.variant], **self.config}, path="tokenizer.config"
        )

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return Weights(
            self.checkpoint or OFFICIAL[self.variant],
            unwrap=("ema",) if self.ema else ("model", "state_dict"),
            select=("gen_vision_model.",),
            optional=("decoder.", "post_quant_conv."),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "llamagen",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return conv_resources(self.architecture.ch)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' evaluation crop."""
        return {"kind": "center_crop", "rule": "adm", "size": 256}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream of ids on a grid.

        Raises:
            JobError: a side of ``size`` is not a multiple of the factor.
        """
        axes = grid(size, self.architecture.factor, kind="llamagen")
        return TokenSpec(
            (Stream("image", "index", axes, vocab_sizes=(self.architecture.codebook_size,)),)
        )

    def network(self) -> IdAutoencoder:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.conv import LLAMAGEN, Trunk
        from tokenmill.tokenizers.networks.conv_autoencoder import Codebook, IdAutoencoder

        c = self.architecture
        encoder, decoder = (
            Trunk(LLAMAGEN, c.ch, mult, c.num_res_blocks, (3, c.z_channels), (len(mult) - 1,))
            for mult in (c.encoder_ch_mult, c.decoder_ch_mult)
        )
        codebook = Codebook(c.codebook_size, c.codebook_embed_dim, c.codebook_l2_norm)
        return IdAutoencoder(encoder, decoder, codebook=codebook)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or not of this variant.
        """
        import torch

        from tokenmill.tokenizers.images import ImageEncoder

        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        return ImageEncoder(
            network, self.spec(None), normalisation=HALF, dtype=self.dtype, device=device
        )


PLUGIN = LlamaGen
