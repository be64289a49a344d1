"""Any decoder, with faults at some assets: before a picture or shape is there, amid a video.

    [decoder]
    kind = "tokenmill.testing.faulty_media:FaultyMedia"
    decoder = "video"
    faults = { "videos/band/duo.3gp" = "segfault" }

As in `tokenmill.testing.faults`, a fault is no part of an identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, BinaryIO, cast

import pyarrow as pa

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import DecodeLimits, Decoder, Frame, Video
from tokenmill.testing.faults import FaultName, Trigger
from tokenmill_schemas.asset import AssetRef, Modality


@dataclass(frozen=True, slots=True)
class FaultyMedia:
    """The decoder of kind ``decoder``, with faults at the keys of ``faults``.

    Attributes:
        decoder: what decodes.
        faults: key to what happens to its process.
        once: a folder; with it each fault happens once.
        at_frame: the frame of a video in whose place the fault happens.
    """

    decoder: str
    faults: dict[str, FaultName] = field(default_factory=dict)
    once: str = ""
    at_frame: int = 20
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    @property
    def _inner(self) -> Decoder:
        decoder = open_decoder(self.decoder)
        return replace(decoder, limits=self.limits)  # type: ignore[type-var]  # a dataclass, as all are

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those of the decoder."""
        return self._inner.modalities

    @property
    def identity(self) -> dict[str, Any]:
        """That of the decoder."""
        return self._inner.identity

    def facts(self) -> pa.Schema:
        """Return the decoder's facts."""
        return self._inner.facts()

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Any:
        """Decode an asset; its fault happens now, or while its frames are read."""
        trigger = Trigger(self.faults, self.once)
        media = self._inner.decode(ref, stream)
        if hasattr(media, "frames"):
            return FaultyVideo(cast("Video", media), trigger, ref.key, self.at_frame)
        trigger(ref.key)
        return media


@dataclass(slots=True)
class FaultyVideo:
    """An open video with a fault in the place of frame ``at_frame``."""

    video: Video
    trigger: Trigger
    key: str
    at_frame: int

    @property
    def facts(self) -> dict[str, Any]:
        """Those of the video."""
        return self.video.facts

    @property
    def size(self) -> tuple[int, int]:
        """That of the video."""
        return self.video.size

    @property
    def time_base(self) -> Fraction:
        """That of the video."""
        return self.video.time_base

    @property
    def fps(self) -> float:
        """That of the video."""
        return self.video.fps

    @property
    def decode_s(self) -> float:
        """That of the video."""
        return self.video.decode_s

    def frames(self) -> Iterator[Frame]:
        """Yield the video's frames up to the fault, and all of them where none is due."""
        for number, frame in enumerate(self.video.frames()):
            if number == self.at_frame:
                self.trigger(self.key)
            yield frame

    def close(self) -> None:
        """Close the video."""
        self.video.close()
