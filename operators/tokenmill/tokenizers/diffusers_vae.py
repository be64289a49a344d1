"""The continuous latents of AutoencoderKL and AutoencoderDC.

The networks are those of Hugging Face's diffusers (extra ``diffusers``); this module fixes what a
store of latents has to fix. Nothing is sampled: the stream holds the posterior's mean, or mean and
log-variance, unscaled, and the spec's `Latent` says how the model's latent comes of them. Slicing
and tiling, which change values at the seams, are off.

AutoencoderKL: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR
2022); AutoencoderDC: Chen et al., "Deep Compression Autoencoder" (arXiv 2410.10733), which is
deterministic and has no posterior.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, grid, identity_of
from tokenmill.tokenizers.pretrained import folder_config, is_folder, weights_file
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Latent, Stream, TokenSpec

Posterior = Literal["mean", "mean_logvar"]

KL, DC = "AutoencoderKL", "AutoencoderDC"
#: diffusers' own defaults of what a spec needs, so that describing a VAE does not import diffusers
#: (seconds). One more entry of widths is one halving more.
DEFAULTS: dict[str, dict[str, Any]] = {
    KL: {"block_out_channels": (64,), "latent_channels": 4, "scaling_factor": 0.18215},
    DC: {"encoder_block_out_channels": 6 * (0,), "latent_channels": 32, "scaling_factor": 1.0},
}
_WIDTHS = {KL: "block_out_channels", DC: "encoder_block_out_channels"}
#: Names of a diffusers folder's weights, in the order in which they are looked for.
WEIGHTS = tuple(
    f"diffusion_pytorch_model.{end}"
    for end in ("safetensors", "safetensors.index.json", "bin", "bin.index.json")
)


@dataclass(frozen=True, slots=True)
class DiffusersVae:
    """Description of a diffusers autoencoder.

    Attributes:
        checkpoint: a diffusers folder (a local path, ``hf://owner/repo[@revision][/subfolder]``),
            or with ``config`` a file of its state dict, or ``random:SEED``.
        variant: the class, ``AutoencoderKL`` or ``AutoencoderDC``; "" takes it from the
            configuration.
        config: the class's constructor arguments, laid over the folder's config.json.
        posterior: what is stored, the Gaussian's mean or its mean and log-variance, concatenated.
        latent_dtype: type in which the latents are stored.
        dtype: type that the network computes in.
    """

    checkpoint: str
    variant: Literal["", "AutoencoderKL", "AutoencoderDC"] = ""
    config: dict[str, Any] = field(default_factory=dict)
    posterior: Posterior = "mean"
    latent_dtype: Dtype = "float32"
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments, with the class's name as ``_class_name``.

        Raises:
            JobError: no configuration, or it is of another class than this module wraps.
            CheckpointError: the folder has no config.json.
        """
        config = folder_config(self.checkpoint) if is_folder(self.checkpoint) else {}
        config |= self.config
        if not config:
            message = "is needed where the checkpoint is no folder with a config.json"
            raise JobError(message, path="tokenizer.config")
        guess = DC if _WIDTHS[DC] in config else KL
        name = self.variant or config.get("_class_name", guess)
        if name not in DEFAULTS:
            message = f"is {name!r}; this wraps {KL} and {DC}"
            raise JobError(message, path="tokenizer.variant")
        return without_bookkeeping(config) | {"_class_name": name}

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights, diffusers' version, arithmetic, and what is stored."""
        known = identity_of(
            "diffusers_vae",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )
        library = {
            "diffusers": diffusers_version("diffusers_vae"),
            "slicing": False,
            "tiling": False,
        }
        return known | library | {"posterior": self.posterior, "latent_dtype": self.latent_dtype}

    @property
    def resources(self) -> Resources:
        """Convolutions at full resolution are wide: a small batch, and memory for it."""
        return Resources(memory_bytes=4 * 2**30, batch_size=8)

    @property
    def default_view(self) -> dict[str, Any]:
        """ADM's centre crop at 256, as DiT and its successors store these latents."""
        return {"kind": "center_crop", "size": 256, "rule": "adm"}

    @property
    def can_decode(self) -> bool:
        """Always, if the checkpoint is whole."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one float stream ``image`` on axes ``h`` and ``w``, with its scale and shift.

        Raises:
            JobError: a side is not a multiple of the downsampling factor, or the class has no
                posterior to store.
        """
        config = self.architecture
        name = config["_class_name"]
        if name == DC and self.posterior != "mean":
            raise JobError(f"{DC} is deterministic: mean only", path="tokenizer.posterior")
        known = DEFAULTS[name] | config
        factor = 2 ** (len(known[_WIDTHS[name]]) - 1)
        count = 2 if self.posterior == "mean_logvar" else 1
        stream = Stream(
            "image",
            "float",
            grid(size, factor, kind="diffusers_vae"),
            channels=count * known["latent_channels"],
            dtype=self.latent_dtype,
            latent=_latent(known, self.posterior),
        )
        return TokenSpec((stream,))

    @property
    def weights(self) -> Weights:
        """Where the weights come from.

        Raises:
            CheckpointError: the folder has none.
        """
        return Weights(weights_file(self.checkpoint, WEIGHTS))

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network and load its weights; a checkpoint may lack the decoder.

        Raises:
            JobError: diffusers is not installed, or does not know a key of the configuration.
            CheckpointError: keys are missing or have other shapes.
        """
        try:
            from tokenmill.tokenizers.networks.diffusers_vae import (
                DiffusersNetwork,
                build_vae,
                fill_vae,
            )
        except ImportError as error:
            raise _lacking("diffusers_vae") from error
        import torch

        from tokenmill.tokenizers.images import ImageEncoder

        spec, config = self.spec(None), self.architecture
        with torch.device("meta"):
            vae = build_vae(config["_class_name"], without_bookkeeping(config))
        network = DiffusersNetwork(vae, with_logvar=self.posterior == "mean_logvar")
        fill_vae(network, self.weights.checkpoint)
        return ImageEncoder(network, spec, normalisation=HALF, dtype=self.dtype, device=device)


def without_bookkeeping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop diffusers' own bookkeeping (version, path), which says nothing about values."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _latent(config: Mapping[str, Any], posterior: Posterior) -> Latent:
    """Return how the pipelines of diffusers make the model's latent of an unscaled mean."""
    scale = float(config["scaling_factor"])
    if config.get("latents_mean") and config.get("latents_std"):
        scales = tuple(scale / float(std) for std in config["latents_std"])
        return Latent(posterior, scales, tuple(map(float, config["latents_mean"])))
    return Latent(posterior, (scale,), (float(config.get("shift_factor") or 0.0),))


def diffusers_version(kind: str) -> str:
    """Return the version of diffusers, without importing it.

    Raises:
        JobError: it is not installed; says that tokenizer ``kind`` needs it.
    """
    try:
        return importlib.metadata.version("diffusers")
    except importlib.metadata.PackageNotFoundError as error:
        raise _lacking(kind) from error


def _lacking(kind: str) -> JobError:
    message = f"{kind} needs diffusers: pip install 'tokenmill[torch,diffusers]'"
    return JobError(message, path="tokenizer.kind")


PLUGIN = DiffusersVae
