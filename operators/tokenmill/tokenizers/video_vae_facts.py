"""What a spec needs to know of diffusers' video autoencoders, told without importing diffusers.

Their own defaults, the pixels and frames per latent, and how a model's latent comes of a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tokenmill.tokenizers.locate import INDEX, PATH, RANDOM, checkpoint_files, local_file
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.tokens import Latent

WAN = "AutoencoderKLWan"
HUNYUAN = "AutoencoderKLHunyuanVideo"
LTX = "AutoencoderKLLTXVideo"

#: Defaults of the constructors (diffusers 0.42.1).
DEFAULTS: dict[str, dict[str, Any]] = {
    WAN: {
        "z_dim": 16,
        "dim_mult": (1, 2, 4, 4),
        "temperal_downsample": (False, True, True),
        "patch_size": None,
        "latents_mean": (
            -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
            0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
        ),
        "latents_std": (
            2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
            3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
        ),
    },
    HUNYUAN: {
        "latent_channels": 16,
        "scaling_factor": 0.476986,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4,
    },
    LTX: {
        "latent_channels": 128,
        "scaling_factor": 1.0,
        "spatio_temporal_scaling": (True, True, True, False),
        "patch_size": 4,
        "patch_size_t": 1,
        "spatial_compression_ratio": None,
        "temporal_compression_ratio": None,
    },
}  # fmt: skip

_SPATIAL = ("tile_sample_min_height", "tile_sample_min_width")
_STRIDES = ("tile_sample_stride_height", "tile_sample_stride_width")


def _tiles(side: int, stride: int) -> dict[str, int]:
    return {**dict.fromkeys(_SPATIAL, side), **dict.fromkeys(_STRIDES, stride)}


#: Attributes that set the tiles, with their values in the constructors.
TILES: dict[str, dict[str, int]] = {
    WAN: _tiles(256, 192),
    HUNYUAN: _tiles(256, 192)
    | {"tile_sample_min_num_frames": 16, "tile_sample_stride_num_frames": 12},
    LTX: _tiles(512, 448) | {"tile_sample_min_num_frames": 16, "tile_sample_stride_num_frames": 8},
}


def factors(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the frames per latent after the first, and the pixels on each side.

    Raises:
        JobError: a Wan whose parts of four frames do not give one latent each.
    """
    known = {**DEFAULTS[config["_class_name"]], **config}
    if config["_class_name"] == WAN:
        if sum(known["temperal_downsample"]) != 2:
            text = f"{WAN} encodes four frames at a time, so it must halve time twice"
            raise JobError(text, path="tokenizer.config.temperal_downsample")
        return 4, 2 ** (len(known["dim_mult"]) - 1) * (known["patch_size"] or 1)
    time, side = known["temporal_compression_ratio"], known["spatial_compression_ratio"]
    if config["_class_name"] == LTX:
        halvings = 2 ** sum(known["spatio_temporal_scaling"])
        time = time or known["patch_size_t"] * halvings
        side = side or known["patch_size"] * halvings
    return time, side


def latent_of(
    known: Mapping[str, Any], posterior: Literal["mean", "mean_logvar"], *, weights: str
) -> Latent:
    """Return how the pipelines of diffusers make the model's latent of an unscaled mean.

    Args:
        known: the configuration over the defaults, with ``_class_name``.
        posterior: what is stored.
        weights: the checkpoint, where LTX keeps the mean and deviation of its latents.

    Raises:
        JobError: Wan: means or deviations are not one per channel.
        CheckpointError: LTX: the weights cannot be read.
    """
    if known["_class_name"] == HUNYUAN:
        return Latent(posterior, (float(known["scaling_factor"]),), (0.0,))
    if known["_class_name"] == LTX:
        scale, stored = float(known["scaling_factor"]), ltx_statistics(weights)
        if stored is None:
            return Latent(posterior, (scale,), (0.0,))
        mean, std = stored
    else:
        scale, mean, std = 1.0, known["latents_mean"], known["latents_std"]
        if not len(mean) == len(std) == known["z_dim"]:
            text = f"must have z_dim = {known['z_dim']} values, as latents_std must"
            raise JobError(text, path="tokenizer.config.latents_mean")
    return Latent(posterior, tuple(scale / float(s) for s in std), tuple(map(float, mean)))


def ltx_statistics(checkpoint: str) -> tuple[list[float], list[float]] | None:
    """Return the means and deviations of LTX's latents; None where the weights have none."""
    if checkpoint.startswith(RANDOM):
        return None
    if checkpoint.endswith((".safetensors", INDEX)):
        found = [_tensor(checkpoint, name) for name in ("latents_mean", "latents_std")]
    else:
        from tokenmill.tokenizers.checkpoints import load_weights

        weights = load_weights(checkpoint)
        found = [weights.get(name) for name in ("latents_mean", "latents_std")]
    mean, std = (None if value is None else value.float().tolist() for value in found)
    return None if mean is None or std is None else (mean, std)


def _tensor(checkpoint: str, name: str) -> Any:
    """Return one tensor of a safetensors file, also of one in several parts, or None."""
    from safetensors import SafetensorError, safe_open

    for part in checkpoint_files(checkpoint, select=(name,)):
        try:
            with safe_open(local_file(part), framework="pt") as file:
                if name in file.keys():  # noqa: SIM118 - it is no mapping
                    return file.get_tensor(name)
        except SafetensorError as error:
            text = f"{part} is not a whole safetensors file: {error}"
            raise CheckpointError(text, path=PATH) from error
    return None
