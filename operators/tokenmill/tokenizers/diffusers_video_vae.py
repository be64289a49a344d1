"""The continuous latents of the video autoencoders of Wan, HunyuanVideo and LTX-Video.

The networks are those of Hugging Face's diffusers (extra ``diffusers``); this module fixes what a
store of latents has to fix. Nothing is sampled: the stream holds the posterior's mean, or mean and
log-variance, unscaled, and the spec's `Latent` says how the model's latent comes of them.

=========================== ============= ======= ===========================================
class                       paper         frames  one pass over a clip
=========================== ============= ======= ===========================================
AutoencoderKLWan            2503.20314    1 + 4k  causal, in parts of 1, 4, 4, ... frames
AutoencoderKLHunyuanVideo   2412.03603    1 + 4k  normalises over all of time; above 16 frames
                                                  overlapping tiles of time (``framewise``)
AutoencoderKLLTXVideo       2501.00103    1 + 8k  causal
=========================== ============= ======= ===========================================

Wan, LTX, and whatever is framewise, take long clips in bounded memory; Hunyuan without framewise
tiles, and Wan and a causal LTX with spatial ones, do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.clip_grid import Frames, clip_grid
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, identity_of
from tokenmill.tokenizers.diffusers_vae import WEIGHTS, diffusers_version, without_bookkeeping
from tokenmill.tokenizers.pretrained import folder_config, is_folder, weights_file
from tokenmill.tokenizers.video_vae_facts import (
    DEFAULTS,
    HUNYUAN,
    TILES,
    WAN,
    factors,
    latent_of,
)
from tokenmill.views.base import ViewKind, ViewShape
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import nearest
from tokenmill_schemas.tokens import Stream, TokenSpec

VARIANTS = tuple(DEFAULTS)


@dataclass(frozen=True, slots=True)
class DiffusersVideoVae:
    """Description of a diffusers video autoencoder: one float stream ``video`` on t, h, w.

    Attributes:
        checkpoint: a diffusers folder (a local path, ``hf://owner/repo[@revision][/subfolder]``),
            or with ``config`` a file of its state dict, or ``random:SEED``.
        variant: the class; "" takes it from the configuration.
        config: the class's constructor arguments, laid over the folder's config.json.
        posterior: what is stored, the Gaussian's mean or its mean and log-variance, concatenated.
        latent_dtype: type in which the latents are stored.
        dtype: type that the network computes in.
        framewise: overlapping tiles of time, blended, for clips that are longer than one; changes
            latents. None is diffusers' default: on for Hunyuan, off for LTX; Wan has none.
        tiling: overlapping tiles of frames larger than one, blended; changes latents at the seams.
        slicing: one clip of a batch at a time; less memory, the same latents but for rounding.
        tiles: changes to the tiles' sizes, by diffusers' names (``tile_sample_min_height``, ...).
    """

    checkpoint: str
    variant: Literal[
        "", "AutoencoderKLWan", "AutoencoderKLHunyuanVideo", "AutoencoderKLLTXVideo"
    ] = ""
    config: dict[str, Any] = field(default_factory=dict)
    posterior: Literal["mean", "mean_logvar"] = "mean"
    latent_dtype: Dtype = "float32"
    dtype: Dtype = "float32"
    framewise: bool | None = None
    tiling: bool = False
    slicing: bool = False
    tiles: dict[str, int] = field(default_factory=dict)

    takes: ClassVar[tuple[ViewKind, ...]] = ("clip", "image")

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments, with the class's name as ``_class_name``.

        Raises:
            JobError: no configuration, or it is of another class than this module wraps.
            CheckpointError: the folder has no config.json.
        """
        config = folder_config(self.checkpoint) if is_folder(self.checkpoint) else {}
        config |= self.config
        name = self.variant or config.get("_class_name", "")
        if name not in DEFAULTS:
            message = f"is {name!r}; this wraps {', '.join(DEFAULTS)}"
            raise JobError(message, path="tokenizer.variant")
        return without_bookkeeping(config) | {"_class_name": name}

    @property
    def flags(self) -> dict[str, Any]:
        """How a clip is cut for the network: the three flags and the sizes that they use.

        Raises:
            JobError: the class has no such tiles.
        """
        name = self.architecture["_class_name"]
        if name == WAN and self.framewise:
            raise JobError(f"{WAN} has no tiles of time", path="tokenizer.framewise")
        for key, value in self.tiles.items():
            if key not in TILES[name]:
                raise JobError(
                    f"no such size; {nearest(key, list(TILES[name]))}", path="tokenizer.tiles"
                )
            if value < 1:
                raise JobError(f"must be positive, got {value}", path=f"tokenizer.tiles.{key}")
        framewise = name == HUNYUAN if self.framewise is None else self.framewise
        flags = {"framewise": framewise, "tiling": self.tiling, "slicing": self.slicing}
        return flags | {"tiles": TILES[name] | self.tiles}

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights, diffusers' version, arithmetic, tiles, and what is stored."""
        known = identity_of(
            "diffusers_video_vae",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )
        stored = {"posterior": self.posterior, "latent_dtype": self.latent_dtype}
        return known | {"diffusers": diffusers_version("diffusers_video_vae")} | self.flags | stored

    @property
    def resources(self) -> Resources:
        """Three-dimensional maps at full resolution are wide: one or two clips, and memory."""
        return Resources(gpus=1.0, cpus=1.0, memory_bytes=8 * 2**30, batch_size=2)

    @property
    def default_view(self) -> dict[str, Any]:
        """17 frames of 256 pixels, which all of them take."""
        return {"kind": "clips", "size": 256, "frames": 17}

    @property
    def can_decode(self) -> bool:
        """Always, if the checkpoint is whole."""
        return True

    @property
    def frames(self) -> Frames:
        """The lengths of clips that it takes."""
        return Frames(1, factors(self.architecture)[0])

    def spec(self, shape: ViewShape | None) -> TokenSpec:
        """Return one float stream ``video`` on axes t, h and w, with its scale and shift.

        Raises:
            JobError: a side or the length does not fit, or the configuration lacks a value.
            CheckpointError: LTX: its scale and shift are in the weights, which cannot be read.
        """
        config = self.architecture
        known = DEFAULTS[config["_class_name"]] | config
        _, side = factors(config)
        count = 2 if self.posterior == "mean_logvar" else 1
        channels = known["z_dim" if config["_class_name"] == WAN else "latent_channels"]
        stream = Stream(
            "video",
            "float",
            clip_grid(shape, self.frames, factors=(side, side), kind="diffusers_video_vae"),
            channels=count * channels,
            dtype=self.latent_dtype,
            latent=latent_of(known, self.posterior, weights=self.weights.checkpoint),
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

        Where it can take a long clip in parts, the encoder is a `StreamingEncoder`.

        Raises:
            JobError: diffusers is not installed, or does not know a key of the configuration.
            CheckpointError: keys are missing or have other shapes.
        """
        diffusers_version("diffusers_video_vae")
        import torch

        from tokenmill.tokenizers.networks.diffusers_vae import build_vae
        from tokenmill.tokenizers.networks.diffusers_video_vae import (
            VideoVaeNetwork,
            encoder_class,
            fill_video_vae,
        )

        spec, config = self.spec(None), self.architecture
        with torch.device("meta"):
            vae = build_vae(config["_class_name"], without_bookkeeping(config))
        network = VideoVaeNetwork(
            vae, self.frames, with_logvar=self.posterior == "mean_logvar", flags=self.flags
        )
        fill_video_vae(network, self.weights.checkpoint)
        kind = encoder_class(network)
        return kind(network, spec, normalisation=HALF, dtype=self.dtype, device=device)


PLUGIN = DiffusersVideoVae
