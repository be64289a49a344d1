"""TiTok, TA-TiTok and One-D-Piece, images as short 1-D sequences.

Papers and networks: `tokenmill.tokenizers.networks.titok`. Checkpoints: a folder with config.json
and model.safetensors as on the hub (``hf://yucornetto/tokenizer_titok_l32_imagenet``), which then
needs no ``variant`` but for TA-TiTok, or one file of the same weights, safetensors or torch.

==========================================  ============================================
variant                                     tokens of a 256 x 256 picture
==========================================  ============================================
S-128, B-64, L-32                           ids below 4096, in no order
BL-64-vq8k, BL-128-vq8k, SL-256-vq8k        ids below 8192, in no order
LL-32-vae, BL-64-vae, BL-128-vae            16 Gaussian channels each
TA-BL-32-vq, TA-BL-64-vq, TA-BL-128-vq      ids below 8192; decoding needs a caption
TA-BL-32-vae, TA-BL-64-vae, TA-SL-128-vae   16 Gaussian channels; decoding needs a caption
One-D-Piece-S-256, -B-256, -L-256           ids below 4096; every prefix decodes
==========================================  ============================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import UNIT, Dtype, Weights, identity_of
from tokenmill.tokenizers.networks.titok_config import (
    SIZES,
    VARIANTS,
    TiTokConfig,
    find_variant,
    flat_config,
    variant_config,
)
from tokenmill.tokenizers.pretrained import folder_config, folder_weights, is_folder
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Latent, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.titok_model import TiTokNetwork

#: Weights beside config.json: the hub's, then the authors' older form.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: Prefixes of everything that only decoding needs, which a checkpoint may lack.
_DECODING = ("decoder.", "pixel_quantize.", "pixel_decoder.")


@dataclass(frozen=True, slots=True)
class TiTok:
    """Description of a TiTok tokenizer.

    Attributes:
        variant: one of `VARIANTS`, or the name of its official configuration file; "" takes the
            architecture from the checkpoint folder's config.json.
        checkpoint: a model folder or a weights file (see the module), or ``random:SEED``; the
            variant's official folder on the hub if empty.
        config: changes to the architecture: fields of
            `tokenmill.tokenizers.networks.titok_config.TiTokConfig`, or an official configuration
            (``{"model": {"vq_model": ...}, "dataset": {"preprocessing": ...}}``).
        posterior: what a VAE variant stores, the Gaussian's mean or its mean and log-variance
            (clamped to [-30, 20]); never a sample.
        latent_dtype: type in which a VAE variant's values are stored.
        dtype: type that the network computes in; the quantizer always has float32.
    """

    variant: str = ""
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    posterior: Literal["mean", "mean_logvar"] = "mean"
    latent_dtype: Dtype = "float32"
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    def __post_init__(self) -> None:
        if self.variant or not is_folder(self.checkpoint):
            _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> TiTokConfig:
        """The variant, or else the folder's config.json, with the changes of ``config``.

        Raises:
            JobError: no variant is named, or a key of ``config`` is wrong.
            CheckpointError: the folder has no config.json.
        """
        if self.variant:
            known = variant_config(find_variant(self.variant))
        else:
            known = flat_config(folder_config(self.checkpoint)) if self._in_folder else {}
        known |= flat_config(self.config)
        if not known:
            raise JobError(f"name one of {', '.join(VARIANTS)}", path="tokenizer.variant")
        return build(TiTokConfig, known, path="tokenizer.config")

    @property
    def _source(self) -> str:
        official = f"hf://{find_variant(self.variant).hub}" if self.variant else ""
        return self.checkpoint or official

    @property
    def _in_folder(self) -> bool:
        return is_folder(self._source)

    @property
    def weights(self) -> Weights:
        """Where the weights come from.

        Raises:
            CheckpointError: the folder has no weights, or its config.json is of another variant.
        """
        if not self._in_folder:
            return Weights(self._source, unwrap=("state_dict", "model"), optional=_DECODING)
        if self.variant:
            named = variant_config(find_variant(self.variant))
            _check_same(named, flat_config(folder_config(self._source)), self.variant)
        return Weights(folder_weights(self._source, _WEIGHTS), optional=_DECODING)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights, arithmetic and, for a VAE, what is stored."""
        config = self.architecture
        known = identity_of(
            "titok", config, weights=self.weights, dtype=self.dtype, normalisation=UNIT
        )
        if config.quantize_mode == "vae":
            known |= {"posterior": self.posterior, "latent_dtype": self.latent_dtype}
        return known

    @property
    def resources(self) -> Resources:
        """Twice the float32 weights, and room for a batch of activations."""
        config = self.architecture
        sizes = (config.vit_enc_model_size, config.vit_dec_model_size)
        weights = sum(12 * SIZES[size][0] ** 2 * SIZES[size][1] for size in sizes)
        return Resources(memory_bytes=2**30 + 8 * weights)

    @property
    def default_view(self) -> dict[str, Any]:
        """Short side to 256 and centre crop, as in the authors' inference scripts."""
        config = self.architecture
        rule = "bilinear" if config.tail_drop else "bicubic"
        return {"kind": "center_crop", "size": config.image_size, "rule": rule}

    @property
    def can_decode(self) -> bool:
        """Whether tokens alone give pictures: not for TA-TiTok, nor after stage 1 of training."""
        config = self.architecture
        return config.draws_pixels and not config.text_context_length

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream ``image`` on axis ``n``.

        Raises:
            JobError: the views are not squares of the size that the network was trained for, or an
                option does not fit the variant.
        """
        config = self.architecture
        side = config.image_size
        if size != (side, side):
            got = f"{size[0]} x {size[1]}" if size else "views of several sizes"
            raise JobError(f"titok takes views of {side} x {side}, got {got}", path="view.size")
        axes = (Axis("n", config.num_latent_tokens),)
        if config.quantize_mode == "vae":
            return TokenSpec((self._latents(config, axes),))
        if self.posterior != "mean" or self.latent_dtype != "float32":
            message = "this variant stores ids; posterior and latent_dtype are for VAE variants"
            raise JobError(message, path="tokenizer.posterior")
        stream = Stream("image", "index", axes, (config.codebook_size,), order="unordered")
        prefixed = replace(stream, order="prefix", min_prefix=1)
        return TokenSpec((prefixed if config.tail_drop else stream,))

    def _latents(self, config: TiTokConfig, axes: tuple[Axis, ...]) -> Stream:
        factor = 2 if self.posterior == "mean_logvar" else 1
        return Stream(
            "image",
            "float",
            axes,
            channels=factor * config.token_size,
            dtype=self.latent_dtype,
            order="unordered",
            latent=Latent(self.posterior),
        )

    def network(self) -> TiTokNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.titok_model import TiTokNetwork

        return TiTokNetwork(self.architecture, posterior=self.posterior)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network and load its weights; a checkpoint may lack the decoder.

        The encoder's ``decode`` takes any prefix of One-D-Piece's ids, and for TA-TiTok also
        ``text``, the caption's CLIP ViT-L/14-336 embeddings ``float32[B, 77, 768]``.

        Raises:
            CheckpointError: keys are missing or of other shapes, or it is of another variant.
        """
        import torch

        from tokenmill.tokenizers.images import ImageEncoder

        config = self.architecture
        with torch.device("meta"):
            network = self.network()
        done = self.weights.load_into(network)
        if any(prefix.startswith("decoder.") for prefix in done.unused_prefixes):
            raise CheckpointError(
                f"{self._source} is of a TA-TiTok, whose decoder reads a caption; name its variant",
                path="tokenizer.variant",
            )
        if done.absent:
            network.drop_decoder()
        spec = self.spec((config.image_size, config.image_size))
        if config.text_context_length:
            spec = TokenSpec((*spec.streams, _captions(config)))
        return ImageEncoder(network, spec, normalisation=UNIT, dtype=self.dtype, device=device)


def _captions(config: TiTokConfig) -> Stream:
    """Return the stream that TA-TiTok's decoder takes beside the tokens; none is stored."""
    axes = (Axis("n", config.text_context_length),)
    return Stream("text", "float", axes, channels=config.text_embed_dim, dtype="float32")


def _check_same(named: Mapping[str, Any], official: Mapping[str, Any], variant: str) -> None:
    usual = {f.name: f.default for f in fields(TiTokConfig)}
    other = [k for k, v in official.items() if v != named.get(k, usual.get(k))]
    if other:
        listed = ", ".join(f"{key} = {official[key]!r}" for key in other)
        text = f"config.json is not of variant {variant}: it has {listed}"
        raise CheckpointError(text, path="tokenizer.variant")


PLUGIN = TiTok
