"""What a decoder is: bytes of one asset to a picture, a video or a shape, within limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill_schemas.asset import AssetRef, Modality
from tokenmill_schemas.errors import AssetError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What an asset may claim before anything of its size is allocated."""

    max_asset_bytes: int = 512 * 2**20
    max_pixels: int = 100_000_000
    max_video_bytes: int = 64 * 2**30
    max_faces: int = 20_000_000
    max_points: int = 50_000_000


class ClaimError(AssetError):
    """It asks for far more memory than its bytes can need, while what they can need was to be had.

    Raised from the `MemoryError` that the claim ended in. Others may have held the memory in that
    very moment, so who can read the asset with nothing else under way does before believing it.
    """


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: upright, mode RGB, 8 bits, alpha already laid over the background.

    ``facts`` has the values of the decoder's `Decoder.facts` columns.
    """

    image: Image
    facts: dict[str, Any]

    def close(self) -> None:
        """Do nothing: the pixels are all that there is."""


class Frame(Protocol):
    """One frame of a video, not yet converted: frames that nobody wants cost nothing more."""

    @property
    def pts(self) -> int:
        """Presentation timestamp in units of the video's time base, strictly rising."""
        ...

    def rgb(self, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
        """Return the upright frame ``uint8[H, W, 3]``.

        ``size`` (height, width) asks for a small version, for looking at and not for tokens: it is
        scaled by the decoder's own quick filter.
        """
        ...


class Video(Protocol):
    """An open video. Frames come one after the other; only what a view keeps stays in memory."""

    @property
    def facts(self) -> dict[str, Any]:
        """The values of the decoder's `Decoder.facts` columns."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright frames."""
        ...

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of `Frame.pts`."""
        ...

    @property
    def fps(self) -> float:
        """Mean frame rate that the container states, or an estimate; 0 where there is none."""
        ...

    @property
    def decode_s(self) -> float:
        """Seconds spent in decoding and converting so far."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in order of presentation, from the first; may be called again.

        A frame is valid until the second one after it is asked for: whether it is the nearest to
        some time shows only when the next one is there.

        Raises:
            AssetError: ``truncated`` or ``corrupt``, at the place where it turns out.
        """
        ...

    def close(self) -> None:
        """Free the decoder."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoded 3D object, scene transforms baked, in its own units and axes.

    Attributes:
        content: ``mesh`` (vertices and faces), ``points`` (vertices alone), or ``gaussians``
            (vertices are the centres, ``attributes`` the other values of each).
        vertices: ``float64[V, 3]``, all finite.
        faces: ``int64[F, 3]``, all below V; empty unless a mesh.
        normals: ``float64[V, 3]`` of points, where the file has them.
        attributes: ``float32[V, C]`` named by ``attribute_names``: a splat's stored values.
        up_axis: ``y`` or ``z`` by the format's convention, "" where it has none.
        facts: the values of the decoder's `Decoder.facts` columns.
    """

    content: Literal["mesh", "points", "gaussians"]
    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    facts: dict[str, Any]
    normals: npt.NDArray[np.float64] | None = None
    attributes: npt.NDArray[np.float32] | None = None
    attribute_names: tuple[str, ...] = ()
    up_axis: Literal["", "y", "z"] = ""

    def close(self) -> None:
        """Do nothing: the arrays are all that there is."""


Media = Picture | Video | Shape


class Decoder(Protocol):
    """A frozen, picklable description of how bytes become media of one modality."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a decoded value (name, library version, options), as JSON."""
        ...

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it decodes."""
        ...

    def facts(self) -> pa.Schema:
        """Return the ``asset.*`` columns that describe a decoded asset."""
        ...

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Any:
        """Decode one asset to `Media`.

        ``stream`` is seekable and stays open until the media is closed.

        Raises:
            AssetError: with a reason code, when the bytes are not what can be read.
        """
        ...
