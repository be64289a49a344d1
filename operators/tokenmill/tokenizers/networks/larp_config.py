"""LARP's architecture, by the names of its official configuration; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenmill_schemas.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class LarpConfig:
    """Sizes by the official names; the defaults are those of LARP-L-long."""

    bottleneck_token_num: int = 1024
    input_size: int = 128
    frame_num: int = 16
    temporal_patch_size: int = 4
    patch_size: int = 8
    encoder_hidden_size: int = 768
    decoder_hidden_size: int = 768
    encoder_num_heads: int = 12
    decoder_num_heads: int = 12
    encoder_depth: int = 12
    decoder_depth: int = 12
    bottleneck_dim: int = 16
    codebook_size: int = 8192
    l2_normalized: bool = True
    stochastic: bool = True
    stochastic_temperature: float = 0.03
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.input_size % self.patch_size or self.frame_num % self.temporal_patch_size:
            raise ValueError("patch_size must divide input_size, and temporal_patch_size frame_num")
        for side in ("encoder", "decoder"):
            if getattr(self, f"{side}_hidden_size") % getattr(self, f"{side}_num_heads"):
                raise ValueError(f"{side}_num_heads must divide {side}_hidden_size")
        if self.stochastic and not (self.l2_normalized and self.stochastic_temperature > 0):
            raise ValueError("stochastic needs l2_normalized and a positive temperature")

    @property
    def patches(self) -> tuple[int, int, int]:
        """Patches along time, down and across."""
        side = self.input_size // self.patch_size
        return self.frame_num // self.temporal_patch_size, side, side


#: What the published tokenizer is, where the official class could be another network.
_RELEASED = {
    "transformer_name": "transformer_encoder_parallel",
    "encoder_name": "none",
    "decoder_name": "none",
    "in_channels": 3,
    "learned_encoder_patch_pe": False,
    "learned_decoder_patch_query_embed": False,
    "use_encoder_patch_token_type_embed": False,
    "use_encoder_latent_query_token_type_embed": False,
    "use_decoder_latent_token_type_embed": False,
    "use_decoder_patch_query_token_type_embed": True,
}
_QUANTIZER = ("codebook_size", "l2_normalized", "stochastic", "stochastic_temperature")


def flat_config(official: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `LarpConfig` from a config.json; what only training reads is left out.

    Raises:
        CheckpointError: it is of a network that LARP's published tokenizer is not.
    """
    other = {k: official[k] for k, v in _RELEASED.items() if official.get(k, v) not in (v, None)}
    bottleneck = official.get("bottleneck", {}).get("args", {})
    quantizer = bottleneck.get("regularizer", {})
    if quantizer.get("name", "vq") != "vq" or bottleneck.get("norm", "none") not in ("none", None):
        other["bottleneck"] = bottleneck
    for name in ("temporal_patch_size", "patch_size"):
        decoder = official.get(f"decoder_{name}")
        if decoder not in (None, official.get(name, getattr(LarpConfig(), name))):
            other[f"decoder_{name}"] = decoder
    if other:
        listed = ", ".join(f"{key} = {value!r}" for key, value in other.items())
        raise CheckpointError(f"config.json is of no LARP that is known here: {listed}")
    known = {k: v for k, v in official.items() if k in LarpConfig.__dataclass_fields__}
    known |= {k: v for k, v in bottleneck.items() if k == "bottleneck_dim"}
    return known | {k: v for k, v in quantizer.get("args", {}).items() if k in _QUANTIZER}
