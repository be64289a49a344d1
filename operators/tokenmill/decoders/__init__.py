"""From bytes to pixels, within limits; one module a modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tokenmill.plugins import open_operator

if TYPE_CHECKING:
    from tokenmill.decoders.base import Decoder

__all__ = ["open_decoder"]


def open_decoder(kind: str = "image", **options: Any) -> Decoder:
    """Return the decoder of ``kind``, a module of this package or ``package.module:Class``.

    Raises:
        JobError: unknown kind or key, or a value of the wrong type.
    """
    return cast("Decoder", open_operator("tokenmill.decoders", kind, options, path="decoder"))
