"""Long clips through diffusers' video autoencoders: LTX in causal parts, and tiles of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import (
    LTXVideoCausalConv3d,
    LTXVideoDownsampler3d,
)
from torch import Tensor, nn

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.images import to_host

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.diffusers_video_vae import TiledClipEncoder

#: The last inputs of every causal convolution that its next outputs need.
Memory = dict[nn.Module, Tensor]


class LtxParts:
    """Runs LTX's encoder on the next frames of a clip, with what it remembers of the others.

    Nothing but convolutions looks back in time, and they see the first frame repeated before the
    beginning; so a convolution that keeps its last inputs goes on where it stopped. The encoder's
    own ``forward`` is as it was whenever `run` is not at work.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder = encoder
        self._memory: Memory | None = None
        for module in encoder.modules():
            if isinstance(module, LTXVideoCausalConv3d):
                self._wrap(module, self._convolved)
            elif isinstance(module, LTXVideoDownsampler3d):
                self._wrap(module, self._downsampled)

    def run(self, clips: Tensor, memory: Memory) -> Tensor:
        """Return ``[B, 2 C, t, h, w]`` of the first frame or the next eight; updates ``memory``."""
        self._memory = memory
        try:
            moments: Tensor = self._encoder(clips)
        finally:
            self._memory = None
        return moments

    def _wrap(self, module: Any, remembering: Callable[[Any, Tensor, Memory], Tensor]) -> None:
        official = module.forward

        def forward(x: Tensor) -> Tensor:
            if self._memory is not None:
                return remembering(module, x, self._memory)
            plain: Tensor = official(x)
            return plain

        module.forward = forward

    @staticmethod
    def _convolved(module: Any, x: Tensor, memory: Memory) -> Tensor:
        before = memory.get(module)
        if before is None:
            before = x[:, :, :1].repeat(1, 1, module.kernel_size[0] - 1, 1, 1)
        x = torch.cat([before, x], dim=2)
        out: Tensor = module.conv(x)
        memory[module] = x[:, :, out.shape[2] * module.conv.stride[0] :]
        return out

    @staticmethod
    def _downsampled(module: Any, x: Tensor, memory: Memory) -> Tensor:
        """Fold strides into channels (LTX 0.9.5); the first frame stands for a whole stride."""
        if module.conv not in memory:
            x = torch.cat([x[:, :, : module.stride[0] - 1], x], dim=2)
        folded = _folded(x, module.stride)
        groups = folded.reshape(len(x), -1, module.group_size, *folded.shape[2:])
        return _folded(module.conv(x), module.stride) + groups.mean(dim=2)


def _folded(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Return ``[B, C * stride, t, h, w]``: neighbours within a stride become channels."""
    pairs = ((size // step, step) for size, step in zip(x.shape[2:], stride, strict=True))
    split = x.reshape(*x.shape[:2], *(side for pair in pairs for side in pair))
    return split.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


class TileStream:
    """One clip on its way through overlapping tiles of time; see `EncoderStream`.

    As diffusers cuts them: a tile begins every ``tile_sample_stride_num_frames`` frames and has
    ``tile_sample_min_num_frames`` and one; its first latent but that of the first tile is dropped,
    its next ones are blended with the last of the tile before. Clips no longer than a tile, less
    one frame, go in one piece.
    """

    def __init__(self, encoder: TiledClipEncoder) -> None:
        self._encoder, self._network = encoder, encoder.network
        vae: Any = encoder.network.vae
        self._tile = vae.tile_sample_min_num_frames + 1
        self._stride = vae.tile_sample_stride_num_frames
        ratio = vae.temporal_compression_ratio
        self._keep = self._stride // ratio
        self._blend = vae.tile_sample_min_num_frames // ratio - self._keep
        self._held: list[Pixels] = []
        self._frames = 0
        self._before: Tensor | None = None
        self._done: list[Tensor] = []

    def push(self, frames: Pixels) -> None:
        """Take the next ``uint8[t, H, W, 3]`` frames; encode as soon as a tile is whole."""
        self._frames += len(frames)
        for frame in frames:
            # Copied: a slice would keep the caller's whole array alive.
            self._held.append(frame.copy())
            if len(self._held) == self._tile:
                self._encode()

    def finish(self) -> Tokens:
        """Return the tokens ``[1, *stream shape]`` of all that was pushed.

        Raises:
            ValueError: the tokenizer takes no clips of this length.
        """
        slots = self._network.frames.slots(self._frames)
        if self._before is None:
            return self._encoder.encode(self._encoder.preprocess(np.stack(self._held)[None]))
        while self._held:
            self._encode()
        with torch.inference_mode():
            tokens = self._network.kept(torch.cat(self._done, dim=2)[:, :, :slots])
        return {name: to_host(value, self._encoder.spec[name]) for name, value in tokens.items()}

    def _encode(self) -> None:
        """Encode the tile that begins with the first frame held, and go one stride on."""
        inputs = self._encoder.preprocess(np.stack(self._held[: self._tile])[None])
        moments = self._encoder.run(self._network.whole, inputs)
        with torch.inference_mode():
            if self._before is None:
                self._done.append(moments[:, :, : self._keep + 1])
            else:
                moments = self._network.vae.blend_t(self._before, moments[:, :, 1:], self._blend)
                self._done.append(moments[:, :, : self._keep])
        self._before, self._held = moments, self._held[self._stride :]
