"""Pictures and clips as files of picture codecs, and back.

A picture is one file of each codec. A clip is a JPEG file for each frame (Motion JPEG without a
container), one WebP animation, or one AVIF image sequence. The animation stores what differs from
the frame before but compensates no motion; the sequence is AV1 video, whose frames are predicted
from others.

Files are as Pillow writes them: JPEG with optimised Huffman tables and chroma at half resolution,
WebP with method 6, AVIF at speed 6, everything else as it is by default. Animations take method 4:
6 needs twenty times as long to save 3 % of the bytes. Sequences stay at speed 6: from 7 on libaom
encodes for real time, 5 to 30 times as fast, and loses 1 to 2 dB at few bits.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageSequence, features

from tokenmill.measures import frames_of
from tokenmill.views.base import Pixels

#: How long a frame is shown: codecs may join equal neighbours to one that is shown longer.
FRAME_MS = 40

Files = tuple[bytes, ...]
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to write pictures and clips, and its range of qualities.

    Attributes:
        name: in documents.
        label: Pillow's name of the format, and people's but for capitals.
        lowest: quality.
        highest: quality.
        picture: further options of Pillow for pictures.
        clip: those for a file of all frames; None where each frame is a file of its own.
    """

    name: str
    label: str
    lowest: int
    highest: int
    picture: Options
    clip: Options | None = None

    @property
    def is_there(self) -> bool:
        """Whether Pillow was built with it."""
        return self.name == "jpeg" or bool(features.check(self.name))

    def encode(self, view: Pixels, quality: int) -> Files:
        """Return the files of a picture ``uint8[H, W, 3]`` or a clip ``uint8[T, H, W, 3]``."""
        frames = [Image.fromarray(frame) for frame in frames_of(view)]
        if view.ndim == 3 or self.clip is None:
            return tuple(self._file(frame, quality, dict(self.picture)) for frame in frames)
        more = {"save_all": True, "append_images": frames[1:], "duration": FRAME_MS}
        return (self._file(frames[0], quality, dict(self.clip) | more),)

    def _file(self, image: Image.Image, quality: int, options: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, self.label, quality=quality, **options)
        return buffer.getvalue()


#: One thread: the bytes must not depend on the machine's cores.
_AVIF: Options = (("speed", 6), ("max_threads", 1))
CODECS = (
    Codec("jpeg", "JPEG", 1, 95, (("optimize", True),)),
    Codec("webp", "WebP", 0, 100, (("method", 6),), (("method", 4),)),
    Codec("avif", "AVIF", 0, 100, _AVIF, _AVIF),
)


def size_bytes(files: Files) -> int:
    """Return the bytes of all files of a view."""
    return sum(map(len, files))


def decode(files: Files, shape: tuple[int, ...]) -> Pixels:
    """Return the picture or clip, by its ``shape``, that `Codec.encode` wrote."""
    if len(shape) == 3:
        return next(_frames(files[0], 1))
    each = shape[0] // len(files)
    return np.stack([frame for data in files for frame in _frames(data, each)])


def _frames(data: bytes, count: int) -> Iterator[Pixels]:
    """Yield the ``count`` frames of a file, the joined ones as often as they were."""
    with Image.open(io.BytesIO(data)) as image:
        alone = getattr(image, "n_frames", 1) == 1
        for frame in ImageSequence.Iterator(image):
            pixels = np.asarray(frame.convert("RGB"))
            # An animation of equal frames is written as a still picture, which has no duration.
            shown = count if alone else round(frame.info["duration"] / FRAME_MS)
            yield from (pixels for _ in range(shown))


def best_within(
    codec: Codec, view: Pixels, budget_bytes: int, known: Mapping[int, Files] | None = None
) -> tuple[Files, bool]:
    """Return the files of the highest quality within a budget, and whether there are any.

    If not, they are those of the lowest quality.

    Args:
        codec: writes them.
        view: picture or clip.
        budget_bytes: of all files together.
        known: files of some qualities, which narrow the range that is searched.
    """
    written = dict(known or {})

    def size(quality: int) -> int:
        if quality not in written:
            written[quality] = codec.encode(view, quality)
        return size_bytes(written[quality])

    low = max((q for q in written if size(q) <= budget_bytes), default=codec.lowest)
    if size(low) > budget_bytes:
        return written[low], False
    high = min((q for q in written if q > low), default=codec.highest + 1)
    best = low + bisect_right(range(low + 1, high), budget_bytes, key=size)
    return written[best], True
