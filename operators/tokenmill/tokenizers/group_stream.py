"""Streams of tokenizers whose clips are groups of frames, each encoded alone."""

from __future__ import annotations

import numpy as np

from tokenmill.tokenizers.base import Encoder, Pixels, Tokens


class GroupStream:
    """An `tokenmill.tokenizers.base.EncoderStream` that encodes some whole groups at a time.

    Args:
        encoder: its `encode` gives ``[B, t, ...]`` with one entry of ``t`` per group.
        frames: frames of a group.
        at_once: groups that are encoded together; no more frames than these are held.
    """

    def __init__(self, encoder: Encoder, *, frames: int, at_once: int = 8) -> None:
        self._encoder = encoder
        self._frames, self._chunk = frames, frames * at_once
        self._held: list[Pixels] = []
        self._count = 0
        self._done: list[Tokens] = []

    def push(self, frames: Pixels) -> None:
        """Take the next ``uint8[t, H, W, 3]`` frames."""
        while len(frames):
            part = frames[: self._chunk - self._count]
            frames = frames[len(part) :]
            self._held.append(part.copy())  # the caller may use its buffer again
            self._count += len(part)
            if self._count == self._chunk:
                self._flush()

    def finish(self) -> Tokens:
        """Return the tokens ``[1, *stream shape]`` of all that was pushed.

        Raises:
            ValueError: the frames are no whole number of groups, or none came.
        """
        if self._count % self._frames:
            raise ValueError(
                f"takes clips of a multiple of {self._frames} frames; the last group has "
                f"{self._count % self._frames}"
            )
        if self._count:
            self._flush()
        if not self._done:
            raise ValueError("no frames were given")
        names = self._done[0]
        return {name: np.concatenate([d[name] for d in self._done], axis=1) for name in names}

    def _flush(self) -> None:
        clip = np.concatenate(self._held)[None]
        self._held, self._count = [], 0
        self._done.append(self._encoder.encode(self._encoder.preprocess(clip)))
