"""Architectures of TiTok, TA-TiTok and One-D-Piece, without torch.

The values are those of the authors' ``configs/infer`` (bytedance/1d-tokenizer,
turingmotors/One-D-Piece).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest

Size = Literal["small", "base", "large"]

#: Width, blocks and attention heads of each size.
SIZES: dict[str, tuple[int, int, int]] = {
    "small": (512, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}

#: Entries of the MaskGIT-VQGAN codebook that legacy decoders aim at.
PIXEL_CODES = 1024


@dataclass(frozen=True, slots=True)
class TiTokConfig:
    """Architecture; the fields are those of the official ``model.vq_model`` section.

    ``image_size`` is the official ``dataset.preprocessing.crop_size``. ``tail_drop`` says that the
    decoder was trained on prefixes of random length, as One-D-Piece's are, and so takes any.
    ``text_context_length`` above 0 makes TA-TiTok's decoder, which also reads that many text
    embeddings.
    """

    num_latent_tokens: int
    token_size: int
    quantize_mode: Literal["vq", "vae"] = "vq"
    codebook_size: int = 0
    use_l2_norm: bool = False
    vit_enc_model_size: Size = "base"
    vit_dec_model_size: Size = "base"
    vit_enc_patch_size: int = 16
    vit_dec_patch_size: int = 16
    image_size: int = 256
    is_legacy: bool = True
    finetune_decoder: bool = True
    tail_drop: bool = False
    text_context_length: int = 0
    text_embed_dim: int = 768

    def __post_init__(self) -> None:
        for patch in (self.vit_enc_patch_size, self.vit_dec_patch_size):
            if patch < 1 or self.image_size % patch:
                raise ValueError(f"patch size {patch} does not divide image_size {self.image_size}")
        if self.num_latent_tokens < 1 or self.token_size < 1:
            raise ValueError("num_latent_tokens and token_size must be positive")
        if self.quantize_mode == "vq" and self.codebook_size < 1:
            raise ValueError("quantize_mode 'vq' needs a positive codebook_size")
        if self.finetune_decoder and not (self.is_legacy and self.quantize_mode == "vq"):
            raise ValueError(
                "finetune_decoder puts a MaskGIT-VQGAN behind the decoder; it needs is_legacy and "
                "quantize_mode 'vq'"
            )

    @property
    def draws_pixels(self) -> bool:
        """Whether the decoder ends in pixels (a legacy one of stage 1 ends in logits)."""
        return self.finetune_decoder or not self.is_legacy


_SIZE_OF = {"S": "small", "B": "base", "L": "large"}
_LEGACY = {"token_size": 12, "codebook_size": 4096, "use_l2_norm": True}
_LATER = {"is_legacy": False, "finetune_decoder": False}
_VQ = _LATER | {"token_size": 64, "codebook_size": 8192}
_VAE = _LATER | {"token_size": 16, "quantize_mode": "vae"}
_TEXT = {"text_context_length": 77, "text_embed_dim": 768}
_TAIL_DROP = _LEGACY | {"tail_drop": True}


class Variant(NamedTuple):
    """Sizes of encoder and decoder, latent tokens, the family's values, the authors' hub folder."""

    sizes: str
    tokens: int
    shared: dict[str, Any]
    hub: str


VARIANTS = {
    "S-128": Variant("SS", 128, _LEGACY, "yucornetto/tokenizer_titok_s128_imagenet"),
    "B-64": Variant("BB", 64, _LEGACY, "yucornetto/tokenizer_titok_b64_imagenet"),
    "L-32": Variant("LL", 32, _LEGACY, "yucornetto/tokenizer_titok_l32_imagenet"),
    "BL-64-vq8k": Variant("BL", 64, _VQ, "yucornetto/tokenizer_titok_bl64_vq8k_imagenet"),
    "BL-128-vq8k": Variant("BL", 128, _VQ, "yucornetto/tokenizer_titok_bl128_vq8k_imagenet"),
    "SL-256-vq8k": Variant("SL", 256, _VQ, "yucornetto/tokenizer_titok_sl256_vq8k_imagenet"),
    "LL-32-vae": Variant("LL", 32, _VAE, "yucornetto/tokenizer_titok_ll32_vae_c16_imagenet"),
    "BL-64-vae": Variant("BL", 64, _VAE, "yucornetto/tokenizer_titok_bl64_vae_c16_imagenet"),
    "BL-128-vae": Variant("BL", 128, _VAE, "yucornetto/tokenizer_titok_bl128_vae_c16_imagenet"),
    "TA-BL-32-vq": Variant("BL", 32, _VQ | _TEXT, "turkeyju/tokenizer_tatitok_bl32_vq"),
    "TA-BL-64-vq": Variant("BL", 64, _VQ | _TEXT, "turkeyju/tokenizer_tatitok_bl64_vq"),
    "TA-BL-128-vq": Variant("BL", 128, _VQ | _TEXT, "turkeyju/tokenizer_tatitok_bl128_vq"),
    "TA-BL-32-vae": Variant("BL", 32, _VAE | _TEXT, "turkeyju/tokenizer_tatitok_bl32_vae"),
    "TA-BL-64-vae": Variant("BL", 64, _VAE | _TEXT, "turkeyju/tokenizer_tatitok_bl64_vae"),
    "TA-SL-128-vae": Variant("SL", 128, _VAE | _TEXT, "turkeyju/tokenizer_tatitok_sl128_vae"),
    "One-D-Piece-S-256": Variant("SS", 256, _TAIL_DROP, "turing-motors/One-D-Piece-S-256"),
    "One-D-Piece-B-256": Variant("BB", 256, _TAIL_DROP, "turing-motors/One-D-Piece-B-256"),
    "One-D-Piece-L-256": Variant("LL", 256, _TAIL_DROP, "turing-motors/One-D-Piece-L-256"),
}


def find_variant(name: str) -> Variant:
    """Return a variant by its name, or by the stem of its official configuration file.

    Raises:
        JobError: there is no such variant; names the nearest.
    """
    known = {_plain(key): value for key, value in VARIANTS.items()}
    found = known.get(_plain(name))
    if found is None:
        raise JobError(f"is {name!r}; {nearest(name, list(VARIANTS))}", path="tokenizer.variant")
    return found


def variant_config(variant: Variant) -> dict[str, Any]:
    """Return the fields of `TiTokConfig` of a variant."""
    encoder, decoder = (_SIZE_OF[letter] for letter in variant.sizes)
    own = {"vit_enc_model_size": encoder, "vit_dec_model_size": decoder}
    return own | {"num_latent_tokens": variant.tokens} | variant.shared


def _plain(name: str) -> str:
    for part in ("-", "_", "titok", "c16"):
        name = name.lower().replace(part, "")
    return name


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return our keys of an official configuration; one that is ours already is left as it is.

    The official one says much about training too, which is left out.

    Raises:
        JobError: a section is missing.
    """
    if "model" not in config:
        return dict(config)
    try:
        known = dict(config["model"]["vq_model"])
        known["image_size"] = int(config["dataset"]["preprocessing"]["crop_size"])
    except (KeyError, TypeError) as error:
        raise JobError(f"lacks {error}", path="tokenizer.config") from error
    # One-D-Piece's own word for decoding shorter sequences than the network was built for.
    if "strict_length_assertion" in known:
        known["tail_drop"] = not known["strict_length_assertion"]
    ours = {f.name for f in fields(TiTokConfig)}
    return {key: value for key, value in known.items() if key in ours}
