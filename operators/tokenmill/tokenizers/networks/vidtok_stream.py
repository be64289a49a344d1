"""The live encoder of VidTok, and long clips on their way through a causal one."""

from __future__ import annotations

import numpy as np
import torch

from tokenmill.tokenizers.base import Array, Pixels, Tokens
from tokenmill.tokenizers.clips import ClipEncoder
from tokenmill.tokenizers.images import to_host
from tokenmill.tokenizers.networks.vidtok import PART_FRAMES
from tokenmill.tokenizers.networks.vidtok_layers import Past


class CausalEncoder(ClipEncoder):
    """The encoder of a causal VidTok (see `tokenmill.tokenizers.base.StreamingEncoder`)."""

    def open_stream(self) -> VidTokStream:
        """Return a stream of its own for one clip; several may be open, used in turns."""
        return VidTokStream(self)

    def encode_part(self, frames: Pixels, past: Past) -> Array:
        """Return the ids ``[1, t, h, w]`` of the next ``uint8[T, H, W, 3]`` frames of a clip."""
        inputs = self.preprocess(frames[None])
        with torch.inference_mode(), self._autocast():
            ids = self.network.part_tokens(inputs, past)
        return to_host(ids, self.spec["video"])


class VidTokStream:
    """One clip on its way through a causal VidTok, cut into the parts that one pass is cut into.

    Fewer than `PART_FRAMES` frames wait at a time, and what the layers keep of the past has one
    size, so that memory does not grow with the clip but by its ids.
    """

    def __init__(self, encoder: CausalEncoder) -> None:
        self._encoder = encoder
        self._past = encoder.network.past()
        self._waiting: Pixels | None = None
        self._count = 0
        self._ids: list[Array] = []
        self._finished = False

    def push(self, frames: Pixels) -> None:
        """Take the next ``uint8[t, H, W, 3]`` frames.

        Raises:
            ValueError: they are of another size than those before, or the stream is finished.
        """
        self._check_open()
        if not len(frames):
            return
        if self._waiting is None:
            # The first position holds one frame; copies of it fill the place of those before.
            fill = self._encoder.network.config.time_factor - 1
            self._waiting = np.repeat(frames[:1], fill, axis=0)
        if frames.shape[1:] != self._waiting.shape[1:]:
            have = self._waiting.shape[1:]
            raise ValueError(f"frames must be {have} as those before, got {frames.shape[1:]}")
        self._count += len(frames)
        self._waiting = self._encode_whole_parts(np.concatenate((self._waiting, frames)))

    def finish(self) -> Tokens:
        """Return the ids ``[1, t, h, w]`` of all that was pushed.

        Raises:
            ValueError: the number of frames is not one more than a multiple of those per position;
                more may be pushed then.
        """
        self._check_open()
        self._encoder.network.config.frames.slots(self._count)
        self._finished = True
        if self._waiting is not None and len(self._waiting):
            self._ids.append(self._encoder.encode_part(self._waiting, self._past))
            self._waiting = self._waiting[:0]
        return {"video": np.concatenate(self._ids, axis=1)}

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("this stream is finished; open another one for the next clip")

    def _encode_whole_parts(self, frames: Pixels) -> Pixels:
        end = len(frames) - len(frames) % PART_FRAMES
        for start in range(0, end, PART_FRAMES):
            part = frames[start : start + PART_FRAMES]
            self._ids.append(self._encoder.encode_part(part, self._past))
        # A copy, because a view would hold all that was pushed.
        return frames[end:].copy()
