"""diffusers' autoencoders as image networks: built strictly, filled from checkpoints of any age."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from tokenmill.tokenizers.checkpoints import assign, fill_random, load_weights
from tokenmill.tokenizers.describe import no_decoder
from tokenmill.tokenizers.locate import PATH, RANDOM
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.strict import nearest

log = logging.getLogger(__name__)

STREAM = "image"
#: Prefixes of everything that only decoding needs, which a checkpoint may lack.
_DECODING = ("decoder.", "post_quant_conv.")
#: Attention of files written before diffusers 0.18, under ``mid_block.attentions``.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersNetwork(nn.Module):
    """A diffusers autoencoder as an `tokenmill.tokenizers.images.ImageNetwork`.

    Args:
        vae: an AutoencoderKL or AutoencoderDC.
        with_logvar: `tokens` are the posterior's mean and log-variance, otherwise the mean.
    """

    def __init__(self, vae: Any, *, with_logvar: bool = False) -> None:
        super().__init__()
        self.vae, self.with_logvar = vae, with_logvar
        vae.use_slicing = vae.use_tiling = False

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.vae.decoder = self.vae.post_quant_conv = None

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return the latent, channels last: ``float32[B, h, w, C or 2 C]``."""
        encoded = self.vae.encode(images)
        posterior = getattr(encoded, "latent_dist", None)
        kept = encoded.latent if posterior is None else posterior.mean
        if self.with_logvar and posterior is not None:
            # diffusers clamps the log-variance to [-30, 20] when it makes the distribution.
            kept = torch.cat([kept, posterior.logvar], dim=1)
        return {STREAM: kept.float().permute(0, 2, 3, 1)}

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return the pictures of the means.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.vae.decoder is None:
            raise no_decoder("diffusers_vae")
        means = tokens[STREAM][..., : self.vae.config.latent_channels]
        decoded: Tensor = self.vae.decode(means.permute(0, 3, 1, 2)).sample
        return decoded


def build_vae(name: str, config: Mapping[str, Any]) -> Any:
    """Return diffusers' class ``name``, without weights, on torch's current default device.

    Raises:
        JobError: the installed diffusers does not know a key of ``config``; names the nearest.
    """
    cls: Any = getattr(diffusers, name)
    names = [key for key in inspect.signature(cls.__init__).parameters if key != "self"]
    for key in config:
        if key not in names:
            message = f"{name} of diffusers {diffusers.__version__} has no such key"
            raise JobError(f"{message}; {nearest(key, names)}", path=f"tokenizer.config.{key}")
    return cls(**config)


def fill_vae(network: DiffusersNetwork, checkpoint: str) -> None:
    """Load the autoencoder's weights, of old files too; without a decoder it only encodes.

    Raises:
        CheckpointError: keys are missing or have other shapes.
    """
    if checkpoint.startswith(RANDOM):
        fill_random(network.vae, checkpoint)
        return
    try:
        weights = {_renamed(key): value for key, value in load_weights(checkpoint).items()}
        done = assign(network.vae, weights, optional=_DECODING)
    except CheckpointError as error:
        if error.path:
            raise
        raise CheckpointError(f"{checkpoint}: {error}", path=PATH) from error
    if done.unused_prefixes:
        log.info("%s: unused keys begin with %s", checkpoint, ", ".join(done.unused_prefixes))
    if done.absent:
        network.drop_decoder()


def _renamed(key: str) -> str:
    owner, _, leaf = key.rpartition(".")
    block, _, part = owner.rpartition(".")
    if ".mid_block.attentions." in key and part in _RENAMED:
        return f"{block}.{_RENAMED[part]}.{leaf}"
    return key
