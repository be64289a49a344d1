"""What every torch clip tokenizer does the same: frames in, arrays out, on one device.

As `tokenmill.tokenizers.images`, with time: a network maps clip tensors to token tensors and back.
An image is a clip of one frame; what a tokenizer makes of that is the network's affair. A network
that looks only back in time can take a clip in parts: `CausalClipEncoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.clip_grid import Frames
from tokenmill.tokenizers.describe import HALF, SIGNED, UNIT, Dtype, Normalisation
from tokenmill.tokenizers.images import ImageEncoder, to_host
from tokenmill_schemas.tokens import TokenSpec

__all__ = [
    "HALF",
    "SIGNED",
    "UNIT",
    "CausalClipEncoder",
    "CausalNetwork",
    "ClipEncoder",
    "ClipNetwork",
    "ClipStream",
    "Dtype",
    "Normalisation",
]


class ClipNetwork(Protocol):
    """A torch module with the two directions of a tokenizer; tensors on its own device."""

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return a tensor ``[B, *stream shape]`` per stream for float32 ``[B, 3, T, H, W]``."""
        ...

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, T, H, W]`` in the range of the input's normalisation."""
        ...


class ClipEncoder(ImageEncoder):
    """The live encoder of a clip tokenizer; arguments as those of `ImageEncoder`.

    `decode` gives ``uint8[B, T, H, W, 3]``, also (with T = 1) where an image was encoded.
    """

    def __init__(
        self,
        network: ClipNetwork | CausalNetwork,
        spec: TokenSpec,
        *,
        normalisation: Normalisation = HALF,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            cast("Any", network), spec, normalisation=normalisation, dtype=dtype, device=device
        )

    def preprocess(self, pixels: Pixels) -> Tensor:
        """Turn ``uint8[B, T, H, W, 3]``, or images without T, into float32 ``[B, 3, T, H, W]``."""
        return super().preprocess(pixels[:, None] if pixels.ndim == 4 else pixels)

    def _reconstruct(self, tokens: dict[str, Tensor]) -> Tensor:
        clips: Tensor = self.network.clips(tokens)
        return clips

    @staticmethod
    def _layout(device: torch.device, dtype: Dtype) -> torch.memory_format:  # noqa: ARG004 - always
        """Contiguous channels: the networks change between two and three axes as they go."""
        return torch.contiguous_format


class CausalNetwork(Protocol):
    """A torch module that takes the frames of a clip a few at a time.

    ``frames`` are the lengths of clips that it takes, ``parts`` the lengths of the first part and
    of every later one; the last may be shorter. All its streams have ``t`` as their first axis.
    """

    frames: Frames
    parts: Frames

    def begin(self, clips: int, /) -> Any:
        """Return what a network remembers that has seen nothing of so many clips."""
        ...

    def part(self, clips: Tensor, past: Any, /) -> dict[str, Tensor]:
        """Return the tokens of the next frames ``[B, 3, T, H, W]``, and bring ``past`` forward."""
        ...

    def clips(self, tokens: dict[str, Tensor], /) -> Tensor:
        """Return ``[B, 3, T, H, W]`` in the range of the input's normalisation."""
        ...


class CausalClipEncoder(ClipEncoder):
    """A `tokenmill.tokenizers.base.StreamingEncoder`; its network is a `CausalNetwork`.

    `encode` gives the network the same parts as a stream does, so both give the same bits.
    """

    def encode(self, inputs: Tensor) -> Tokens:
        """Return one host array ``[B, *stream shape]`` per stream, in its storage type.

        Raises:
            ValueError: the tokenizer takes no clips of this length.
        """
        self.network.frames.slots(inputs.shape[2])
        past = self.network.begin(len(inputs))
        first, step = self.network.parts.first, self.network.parts.step
        starts = [0, *range(first, inputs.shape[2], step)]
        stops = [*starts[1:], inputs.shape[2]]
        pairs = zip(starts, stops, strict=True)
        return _joined([self.advance(inputs[:, :, a:b], past) for a, b in pairs])

    def advance(self, inputs: Tensor, past: Any) -> Tokens:
        """Return the tokens of the next part ``[B, 3, T, H, W]``, and bring ``past`` forward."""
        inputs = inputs.to(self.device).contiguous(memory_format=self.layout)
        with torch.inference_mode(), self._autocast():
            tokens = self.network.part(inputs, past)
        return {name: to_host(value, self.spec[name]) for name, value in tokens.items()}

    def open_stream(self) -> ClipStream:
        """Return a stream of its own for one clip."""
        return ClipStream(self)


class ClipStream:
    """One clip on its way through a `CausalClipEncoder`; see `EncoderStream`."""

    def __init__(self, encoder: CausalClipEncoder) -> None:
        self._encoder = encoder
        self._past = encoder.network.begin(1)
        self._waiting: list[Pixels] = []
        self._done: list[Tokens] = []
        self._frames = 0

    def push(self, frames: Pixels) -> None:
        """Take the next ``uint8[t, H, W, 3]`` frames; encode as soon as a part is whole."""
        # Copied: a slice would keep the caller's whole array alive.
        self._waiting.extend(frame.copy() for frame in frames)
        parts: Frames = self._encoder.network.parts
        while len(self._waiting) >= (size := parts.step if self._done else parts.first):
            self._encode(size)

    def finish(self) -> Tokens:
        """Return the tokens ``[1, *stream shape]`` of all that was pushed.

        Raises:
            ValueError: the tokenizer takes no clips of this length.
        """
        self._encoder.network.frames.slots(self._frames + len(self._waiting))
        if self._waiting:
            self._encode(len(self._waiting))
        return _joined(self._done)

    def _encode(self, size: int) -> None:
        part, self._waiting = np.stack(self._waiting[:size])[None], self._waiting[size:]
        self._done.append(self._encoder.advance(self._encoder.preprocess(part), self._past))
        self._frames += size


def _joined(parts: Sequence[Tokens]) -> Tokens:
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
