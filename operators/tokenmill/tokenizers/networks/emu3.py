"""transformers' Emu3VQVAE as a clip network, with the keys of its authors' checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.checkpoints import Assigned, assign, fill_random, load_weights
from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.clips import CausalClipEncoder
from tokenmill.tokenizers.describe import Weights, no_decoder
from tokenmill.tokenizers.images import ImageEncoder
from tokenmill.tokenizers.locate import PATH, RANDOM
from tokenmill.tokenizers.quantize import Floats, code_vectors, nearest_code
from tokenmill_schemas.errors import CheckpointError

log = logging.getLogger(__name__)

#: Clips are groups of four frames, each encoded alone.
GROUPS = Frames(4, 4)
IMAGE, VIDEO = "image", "video"
#: Pixels of the frames that go through the network together: one group of 512 x 512.
_BUDGET_PIXELS = 4 * 512 * 512

#: From the authors' names (Emu3VisionVQModel) to those of transformers; applied in order.
_RENAMES = (
    (r"^(encoder|decoder)\.down\.", r"\1.down_block.down."),
    (r"^(encoder|decoder)\.up\.", r"\1.up_block.up."),
    (r"^(encoder|decoder)\.mid\.", r"\1.middle_block."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"\.attn_1\.norm\.", r".attn_norm."),
    (r"\.(attn\.\d+|attn_1)\.([qkv])\.", r".\1.\2_proj."),
    (r"\.(attn\.\d+|attn_1)\.proj_out\.", r".\1.out_proj."),
)
_LINEAR = re.compile(r"\.(attn\.\d+|attn_1)\.(q_proj|k_proj|v_proj|out_proj)\.weight$")


class Emu3Network(nn.Module):
    """Emu3's vision tokenizer (a `tokenmill.tokenizers.clips.CausalNetwork`).

    Args:
        vqvae: transformers' model; only its parts are run. Its own ``encode`` crops the first two
            axes behind the batch to an image's size, which for clips are time and height.
    """

    frames = parts = GROUPS

    def __init__(self, vqvae: Emu3VQVAE) -> None:
        super().__init__()
        self.vqvae: Any = vqvae

    def drop_decoder(self) -> None:
        """Give up what only decoding needs."""
        self.vqvae.decoder = self.vqvae.post_quant_conv = None

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return the ids of pictures ``[B, 3, H, W]``: each is its frame four times over."""
        groups = images.unsqueeze(1).repeat(1, GROUPS.first, 1, 1, 1)
        return {IMAGE: self._encode(groups)[:, 0]}

    def begin(self, clips: int) -> None:
        """Return nothing: groups know nothing of each other."""

    def part(self, clips: Tensor, past: None) -> dict[str, Tensor]:
        """Return the ids of clips of one group, ``[B, 3, 4, H, W]``."""
        del past
        return {VIDEO: self._encode(clips.transpose(1, 2))}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return clips ``[B, 3, 4 t, H, W]`` of ``video``, or pictures ``[B, 3, H, W]``.

        Raises:
            JobError: the checkpoint had no decoder.
        """
        if self.vqvae.decoder is None:
            raise no_decoder("emu3")
        if IMAGE in tokens:
            return self._decode(tokens[IMAGE].unsqueeze(1))[:, 0]
        ids = tokens[VIDEO]
        frames = self._decode(ids.reshape(-1, 1, *ids.shape[2:]))
        return frames.reshape(len(ids), -1, *frames.shape[2:]).transpose(1, 2)

    def code_vectors(self) -> Floats:
        """Return all codes ``float32[K, D]``."""
        return code_vectors(self.vqvae.quantize.embedding.weight)

    def _encode(self, groups: Tensor) -> Tensor:
        """Return ``int64[G, 1, h, w]`` of groups ``[G, 4, 3, H, W]``, some of them at a time."""
        pixels = groups[0].numel() // groups.shape[2]
        return torch.cat([self._ids(part) for part in _parts(groups, pixels)])

    def _ids(self, groups: Tensor) -> Tensor:
        hidden = self.vqvae.encoder(groups).transpose(1, 2)
        z = self.vqvae.quant_conv(hidden).permute(0, 2, 3, 4, 1)
        return nearest_code(z, self.vqvae.quantize.embedding.weight)

    def _decode(self, groups: Tensor) -> Tensor:
        """Return ``[G, 4, 3, H, W]`` of ids ``[G, 1, h, w]``."""
        pixels = groups[0].numel() * GROUPS.first * self.vqvae.spatial_scale_factor**2
        return torch.cat([self.vqvae.decode(part) for part in _parts(groups, pixels)])


def _parts(groups: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """Cut groups of ``pixels`` each in parts that the budget allows."""
    count = -(-len(groups) * pixels // _BUDGET_PIXELS)
    return torch.tensor_split(groups, max(1, min(count, len(groups))))


class Emu3Encoder(CausalClipEncoder):
    """The live encoder: pictures give the stream ``image``, clips ``video``."""

    def preprocess(self, pixels: Pixels) -> Tensor:
        """Turn ``uint8[B, H, W, 3]`` or ``uint8[B, T, H, W, 3]`` into channels-first float32."""
        return ImageEncoder.preprocess(self, pixels)

    def encode(self, inputs: Tensor) -> Tokens:
        """Return ``image`` of ``[B, 3, H, W]``, ``video`` of ``[B, 3, T, H, W]``.

        A clip of one frame is that frame four times over, as a picture is.

        Raises:
            ValueError: T is neither 1 nor a multiple of four.
        """
        if inputs.ndim == 4:
            return ImageEncoder.encode(self, inputs)
        if inputs.shape[2] == 1:
            inputs = inputs.repeat(1, 1, GROUPS.first, 1, 1)
        return super().encode(inputs)


def build_emu3(config: Mapping[str, Any]) -> Emu3VQVAE:
    """Return transformers' class, without weights, on torch's current default device."""
    return Emu3VQVAE(Emu3VQVAEConfig(**config))


def fill_emu3(network: Emu3Network, weights: Weights) -> Assigned:
    """Load weights under the authors' keys or those of transformers; a decoder may be missing.

    Raises:
        CheckpointError: keys are missing or have other shapes.
    """
    if weights.checkpoint.startswith(RANDOM):
        fill_random(network.vqvae, weights.checkpoint)
        return Assigned()
    try:
        given = renamed(load_weights(weights.checkpoint, select=weights.select))
        done = assign(network.vqvae, given, optional=weights.optional)
    except CheckpointError as error:
        if error.path:
            raise
        raise CheckpointError(f"{weights.checkpoint}: {error}", path=PATH) from error
    if done.unused_prefixes:
        unused = ", ".join(done.unused_prefixes)
        log.info("%s: unused keys begin with %s", weights.checkpoint, unused)
    if done.absent:
        network.drop_decoder()
    return done


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under transformers' keys; those that have them already are left alone."""
    return dict(_renamed(key, value) for key, value in weights.items())


def _renamed(key: str, value: Tensor) -> tuple[str, Tensor]:
    for pattern, name in _RENAMES:
        key = re.sub(pattern, name, key)
    if _LINEAR.search(key) and value.ndim == 4:
        value = value.flatten(1)  # a 1 x 1 convolution is a linear layer
    return key, value
