"""What a decoder is: bytes of one asset to pixels, within limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import pyarrow as pa

from tokenmill_schemas.asset import AssetRef

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What an asset may claim before anything of its size is allocated."""

    max_asset_bytes: int = 512 * 2**20
    max_pixels: int = 100_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: upright, mode RGB, 8 bits, alpha already laid over the background.

    ``facts`` has the values of the decoder's `Decoder.facts` columns.
    """

    image: Image
    facts: dict[str, Any]


class Decoder(Protocol):
    """A frozen, picklable description of how bytes become pictures."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a pixel (name, library version, options), as JSON."""
        ...

    def facts(self) -> pa.Schema:
        """Return the ``asset.*`` columns that describe a decoded asset."""
        ...

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Picture:
        """Decode one asset.

        Raises:
            AssetError: with a reason code, when the bytes are not a picture that can be read.
        """
        ...
