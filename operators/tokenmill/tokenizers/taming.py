"""VQGAN, the first stages of latent diffusion, and the autoencoders that share their network.

Esser et al.: Taming Transformers for High-Resolution Image Synthesis (CVPR 2021),
github.com/CompVis/taming-transformers; Rombach et al.: High-Resolution Image Synthesis with Latent
Diffusion Models (CVPR 2022), github.com/CompVis/latent-diffusion; Li et al.: Autoregressive Image
Generation without Vector Quantization (MAR, NeurIPS 2024); Yao et al.: Reconstruction vs.
Generation (VA-VAE, CVPR 2025), github.com/hustvl/LightningDiT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import (
    HALF,
    SIGNED,
    Dtype,
    Normalisation,
    Weights,
    conv_resources,
    grid,
    identity_of,
)
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Latent, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.conv import Trunk
    from tokenmill.tokenizers.networks.conv_autoencoder import IdAutoencoder, KLAutoencoder

Variant = Literal[
    "f16-1024", "f16-16384", "gumbel-f8",
    "vq-f4", "vq-f4-noattn", "vq-f8", "vq-f8-n256", "vq-f16",
    "kl-f4", "kl-f8", "kl-f16", "kl-f32", "mar-kl16", "vavae-f16d32",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TamingConfig:
    """Architecture, by the names of the official ``ddconfig``, and what comes after the trunk.

    ``quantizer``: ``vq`` (nearest of ``n_embed`` codes of ``embed_dim`` values), ``gumbel``
    (largest logit) or ``kl`` (Gaussian of ``embed_dim`` channels). Attention is put where a picture
    of ``resolution`` would have one of ``attn_resolutions``, whatever the size of the input.
    ``decoder_attn_resolutions`` None means the same in the decoder.
    """

    quantizer: Literal["vq", "gumbel", "kl"] = "vq"
    embed_dim: int = 256
    n_embed: int = 16384
    z_channels: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    resolution: int = 256
    attn_resolutions: tuple[int, ...] = (16,)
    decoder_attn_resolutions: tuple[int, ...] | None = None
    attn_type: Literal["vanilla", "none"] = "vanilla"
    resamp_with_conv: bool = True
    in_channels: int = 3
    out_ch: int = 3

    def __post_init__(self) -> None:
        if self.ch % 32 or self.ch < 32:
            raise ValueError(f"ch must be a multiple of 32 (group normalisation), got {self.ch}")
        if not self.ch_mult:
            raise ValueError("ch_mult needs at least one level")
        if self.in_channels != 3 or self.out_ch != 3:
            raise ValueError("in_channels and out_ch must be 3: views are RGB")

    @property
    def factor(self) -> int:
        """Pixels per position on each side."""
        return 1 << (len(self.ch_mult) - 1)

    def levels(self, resolutions: tuple[int, ...]) -> tuple[int, ...]:
        """Return the levels at which a picture of ``resolution`` has one of ``resolutions``."""
        if self.attn_type == "none":
            return ()
        count = range(len(self.ch_mult))
        return tuple(level for level in count if self.resolution // 2**level in resolutions)


def _first_stage(quantizer: str, ch_mult: tuple[int, ...], z: int, **more: Any) -> dict[str, Any]:
    return {"quantizer": quantizer, "ch_mult": ch_mult, "z_channels": z, "embed_dim": z, **more}


_F4, _F8, _F16 = (1, 2, 4), (1, 2, 2, 4), (1, 1, 2, 2, 4)
VARIANTS: dict[str, dict[str, Any]] = {
    "f16-1024": {"n_embed": 1024},
    "f16-16384": {},
    "gumbel-f8": _first_stage("gumbel", (1, 1, 2, 4), 256, n_embed=8192, attn_resolutions=(32,)),
    "vq-f4": _first_stage("vq", _F4, 3, n_embed=8192, attn_resolutions=()),
    "vq-f4-noattn": _first_stage("vq", _F4, 3, n_embed=8192, attn_resolutions=(), attn_type="none"),
    "vq-f8": _first_stage("vq", _F8, 4, attn_resolutions=(32,)),
    "vq-f8-n256": _first_stage("vq", _F8, 4, n_embed=256, attn_resolutions=(32,)),
    "vq-f16": _first_stage("vq", _F16, 8),
    "kl-f4": _first_stage("kl", _F4, 3, attn_resolutions=()),
    "kl-f8": _first_stage("kl", (1, 2, 4, 4), 4, attn_resolutions=()),
    "kl-f16": _first_stage("kl", _F16, 16),
    "kl-f32": _first_stage("kl", (1, 1, 2, 2, 4, 4), 64, attn_resolutions=(16, 8)),
    "mar-kl16": _first_stage("kl", _F16, 16, decoder_attn_resolutions=()),
    "vavae-f16d32": _first_stage("kl", _F16, 32),
}
#: Factors that the authors' generators multiply their latents with.
SCALES = {"mar-kl16": 0.2325}


@dataclass(frozen=True, slots=True)
class Taming:
    """A convolutional autoencoder of the VQGAN family: one stream ``image`` on a grid.

    Attributes:
        variant: an official model. ``kl-*``, ``mar-*`` and ``vavae-*`` give float latents
            (channels last), all others ids.
        checkpoint: the weights: Lightning files, flat ones, or whole diffusion models (the keys
            under ``first_stage_model.`` are used).
        config: changes to `TamingConfig`.
        dtype: ``float32`` gives the official ids; the others are faster and flip near-ties.
        posterior: store the Gaussian's mean, or mean and log-variance (twice the channels).
        latent_dtype: the type in which float latents are stored.
        scale: what a generator multiplies the latents with, one or one per channel, if not the
            authors' factor; recorded in the stream, not applied.
        shift: what it subtracts first.
    """

    variant: Variant = "f16-16384"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"
    posterior: Literal["mean", "mean_logvar"] = "mean"
    latent_dtype: Dtype = "float32"
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    def __post_init__(self) -> None:
        width = self.architecture.embed_dim
        for name in ("scale", "shift"):
            given = len(getattr(self, name))
            if given not in {0, 1, width}:
                raise JobError(f"needs 1 or {width} entries, got {given}", path=f"tokenizer.{name}")

    @property
    def architecture(self) -> TamingConfig:
        """The variant with the changes of ``config``."""
        return build(
            TamingConfig, {**VARIANTS[self.variant], **self.config}, path="tokenizer.config"
        )

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return Weights(
            self.checkpoint,
            unwrap=("state_dict", "model"),
            select=("first_stage_model.",),
            optional=("decoder.", "post_quant_conv."),
        )

    @property
    def normalisation(self) -> Normalisation:
        """``x / 127.5 - 1`` in CompVis's code, ToTensor and Normalize in the later ones."""
        return HALF if self.variant in {"mar-kl16", "vavae-f16d32"} else SIGNED

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype, normalisation, and what of a Gaussian is kept."""
        identity = identity_of(
            "taming",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=self.normalisation,
        )
        if self.architecture.quantizer != "kl":
            return identity
        return identity | {"posterior": self.posterior, "latent_dtype": self.latent_dtype}

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return conv_resources(self.architecture.ch)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' evaluation crop."""
        rule = "adm" if self.variant in {"mar-kl16", "vavae-f16d32"} else "taming"
        return {"kind": "center_crop", "rule": rule, "size": 256}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream on a grid: ids, or the latent's channels last.

        Raises:
            JobError: a side of ``size`` is not a multiple of the factor.
        """
        c = self.architecture
        axes = grid(size, c.factor, kind="taming")
        if c.quantizer != "kl":
            return TokenSpec((Stream("image", "index", axes, vocab_sizes=(c.n_embed,)),))
        scale = self.scale or (SCALES.get(self.variant, 1.0),)
        latent = Latent(self.posterior, scale, self.shift or (0.0,))
        channels = c.embed_dim * (2 if self.posterior == "mean_logvar" else 1)
        stream = Stream(
            "image", "float", axes, channels=channels, dtype=self.latent_dtype, latent=latent
        )
        return TokenSpec((stream,))

    def network(self) -> IdAutoencoder | KLAutoencoder:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.conv_autoencoder import (
            Codebook,
            IdAutoencoder,
            KLAutoencoder,
        )

        c = self.architecture
        decoder_attention = c.decoder_attn_resolutions
        if decoder_attention is None:
            decoder_attention = c.attn_resolutions
        encoder = _trunk(c, c.z_channels * (2 if c.quantizer == "kl" else 1), c.attn_resolutions)
        decoder = _trunk(c, c.z_channels, decoder_attention)
        if c.quantizer == "kl":
            return KLAutoencoder(encoder, decoder, width=c.embed_dim, posterior=self.posterior)
        codebook = Codebook(c.n_embed, c.embed_dim)
        return IdAutoencoder(encoder, decoder, codebook=codebook, gumbel=c.quantizer == "gumbel")

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
            network,
            self.spec(None),
            normalisation=self.normalisation,
            dtype=self.dtype,
            device=device,
        )


def _trunk(c: TamingConfig, channels: int, attention: tuple[int, ...]) -> Trunk:
    from tokenmill.tokenizers.networks.conv import TAMING, Trunk

    return Trunk(
        TAMING,
        c.ch,
        c.ch_mult,
        c.num_res_blocks,
        (3, channels),
        c.levels(attention),
        mid_attention=c.attn_type != "none",
        resample_with_conv=c.resamp_with_conv,
    )


PLUGIN = Taming
