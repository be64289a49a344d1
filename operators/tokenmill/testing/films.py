"""Films without a codec, for tests of what long assets do to a worker; named in jobs by path.

[source]
kind = "tokenmill.testing.films:Films"
[decoder]
kind = "tokenmill.testing.films:FilmDecoder"
[view]
kind = "tokenmill.testing.films:Reels"
[tokenizer]
kind = "tokenmill.testing.films:FrameMeans"
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders.base import DecodeLimits
from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.views.base import LongView, ViewKind, ViewOf, ViewShape
from tokenmill_schemas.asset import ASSET_NAMES, AssetRef, Modality, listing_schema
from tokenmill_schemas.errors import AssetError, JobError, Reason
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SIDE = 16


def film_frame(number: int, index: int) -> Pixels:
    """Return frame ``index`` of film ``number``: one flat colour, ``uint8[16, 16, 3]``."""
    return np.full((SIDE, SIDE, 3), (number * 31 + index) % 256, np.uint8)


@dataclass(frozen=True, slots=True)
class Films:
    """``count`` films, as scripts that `FilmDecoder` plays.

    Attributes:
        lengths: frames of each, taken in turn.
        breaks: key to the frame at which the film turns out truncated.
        hangs: key to the frame at which its decoder hangs, for ``hang_s``.
        hang_s: how long that is.
    """

    count: int = 4
    lengths: tuple[int, ...] = (10,)
    breaks: dict[str, int] = field(default_factory=dict)
    hangs: dict[str, int] = field(default_factory=dict)
    hang_s: float = 60.0

    def companions(self) -> pa.Schema:
        """Return no columns."""
        return pa.schema([])

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield ``film-0``, ``film-1``, ..."""
        keys = [f"film-{number}" for number in range(self.count)]
        rows = (keys, keys, [""] * len(keys), ["video"] * len(keys), [-1] * len(keys), keys)
        columns = dict(zip(ASSET_NAMES, rows, strict=True))
        yield pa.RecordBatch.from_pydict(columns, schema=listing_schema(self.companions()))

    def open(self, ref: AssetRef) -> BinaryIO:
        """Return a film's script."""
        number = int(ref.key.split("-")[1])
        script = {
            "number": number,
            "frames": self.lengths[number % len(self.lengths)],
            "break": self.breaks.get(ref.key, -1),
            "hang": self.hangs.get(ref.key, -1),
            "hang_s": self.hang_s,
        }
        return io.BytesIO(json.dumps(script).encode())


@dataclass(slots=True)
class Film:
    """An open film."""

    script: dict[str, Any]
    stream: BinaryIO
    decode_s: float = 0.0
    closed: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """Its length."""
        return {"asset.frames": self.script["frames"]}

    def frames(self) -> Iterator[Pixels]:
        """Yield the frames; breaks or hangs where its script says so."""
        for index in range(self.script["frames"]):
            if index == self.script["break"]:
                text = f"breaks off at frame {index}"
                raise AssetError(Reason.TRUNCATED, text, stage="decode")
            if index == self.script["hang"]:
                time.sleep(self.script["hang_s"])
            self.stream.read(1)  # as a codec does: a sign of life
            yield film_frame(self.script["number"], index)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


@dataclass(frozen=True, slots=True)
class FilmDecoder:
    """Plays the scripts of `Films`."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)

    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"decoder": "film"}

    def facts(self) -> pa.Schema:
        """Return the length."""
        return pa.schema([pa.field("asset.frames", pa.int64(), nullable=False)])

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Film:  # noqa: ARG002 - the script says all
        """Open a film."""
        return Film(json.loads(stream.read()), stream)


@dataclass(frozen=True, slots=True)
class Reels:
    """Windows of ``frames`` frames, the last one shorter; 0 takes the whole film in parts.

    ``part`` is the number of frames of a part.
    """

    frames: int = 0
    part: int = 4

    gives: ClassVar[ViewKind] = "clip"
    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    @property
    def identity(self) -> dict[str, Any]:
        """Its options."""
        return {"view": "reels", "frames": self.frames, "part": self.part}

    @property
    def shape(self) -> ViewShape:
        """Any number of frames."""
        return (None, SIDE, SIDE)

    def columns(self) -> pa.Schema:
        """Return a window's number and length."""
        fields = [("view.index", pa.uint16()), ("view.name", pa.string())]
        flip = ("view.flip", pa.bool_())
        return pa.schema([*fields, flip, ("view.frames", pa.int64())])

    def views(self, media: Film, key: str) -> Iterator[ViewOf | LongView]:  # noqa: ARG002
        """Yield windows, or one long view."""
        if self.frames:
            for index, window in enumerate(_windows(media.frames(), self.frames)):
                yield ViewOf(window, _coordinates(index, len(window)))
            return
        counted: list[int] = []

        def parts() -> Iterator[Pixels]:
            for part in _windows(media.frames(), self.part):
                counted.append(len(part))
                yield part

        yield LongView(parts(), lambda: _coordinates(0, sum(counted)))


def _windows(frames: Iterator[Pixels], length: int) -> Iterator[Pixels]:
    held: list[Pixels] = []
    for frame in frames:
        held.append(frame)
        if len(held) == length:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _coordinates(index: int, frames: int) -> dict[str, Any]:
    name = f"reel_{index}"
    return {"view.index": index, "view.name": name, "view.flip": False, "view.frames": frames}


@dataclass(frozen=True, slots=True)
class FrameMeans:
    """One id a frame, its mean. ``streams`` takes long clips in parts; ``refuse`` is a mean.

    A clip that has a frame of the mean ``refuse`` cannot be encoded.
    """

    streams: bool = True
    refuse: int = -1

    takes: ClassVar[tuple[ViewKind, ...]] = ("clip",)

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "frame_means"}

    @property
    def resources(self) -> Resources:
        """Nothing."""
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=0, batch_size=4)

    @property
    def default_view(self) -> dict[str, Any]:
        """Whole films."""
        return {"kind": "tokenmill.testing.films:Reels"}

    @property
    def can_decode(self) -> bool:
        """Not."""
        return False

    def spec(self, shape: ViewShape | None) -> TokenSpec:  # noqa: ARG002 - all are alike
        """Return one id a frame."""
        return TokenSpec((Stream("video", "index", (Axis("t"),), vocab_sizes=(256,)),))

    def load(self, device: str = "cpu") -> FrameMeansEncoder:  # noqa: ARG002
        """Return the live side."""
        return (StreamingFrameMeans if self.streams else FrameMeansEncoder)(self)


class FrameMeansEncoder:
    """The live side of `FrameMeans`, for whole clips; ``longest`` is the longest it was given."""

    def __init__(self, config: FrameMeans) -> None:
        self._config = config
        self.longest = 0

    def preprocess(self, views: Pixels) -> Pixels:
        """Return the clips as they are."""
        return views

    def encode(self, inputs: Pixels) -> Tokens:
        """Return ``video``, ``uint8[B, T]``."""
        self.longest = max(self.longest, inputs.shape[1])
        means: npt.NDArray[np.uint8] = inputs.mean(axis=(2, 3, 4)).astype(np.uint8)
        if (means == self._config.refuse).any():
            raise ValueError(f"cannot encode a frame of mean {self._config.refuse}")
        return {"video": means}

    def decode(self, tokens: Mapping[str, Any]) -> Pixels:
        """Refuse.

        Raises:
            JobError: always.
        """
        raise JobError(f"frame_means cannot decode {sorted(tokens)}")

    def close(self) -> None:
        """Do nothing."""


class StreamingFrameMeans(FrameMeansEncoder):
    """The live side that takes clips in parts."""

    def open_stream(self) -> FrameMeansStream:
        """Return a stream for one clip."""
        return FrameMeansStream(self)


class FrameMeansStream:
    """One clip on its way."""

    def __init__(self, encoder: FrameMeansEncoder) -> None:
        self._encoder = encoder
        self._ids: list[npt.NDArray[np.uint8]] = []

    def push(self, frames: Pixels) -> None:
        """Encode some frames."""
        self._ids.append(self._encoder.encode(frames[None])["video"][0])

    def finish(self) -> Tokens:
        """Return all ids."""
        return {"video": np.concatenate(self._ids)[None]}
