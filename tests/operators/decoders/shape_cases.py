"""What the tests of 3D decoding share."""

from __future__ import annotations

import io

import pytest

from tokenmill.decoders.base import DecodeLimits, Shape
from tokenmill.decoders.shape import ShapeDecoder
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason


def decoded(data: bytes, name: str = "thing", **options: int) -> Shape:
    """What the decoder makes of ``data`` under limits given as options."""
    ref = AssetRef(name, f"mem://{name}", size_bytes=len(data))
    return ShapeDecoder(limits=DecodeLimits(**options)).decode(ref, io.BytesIO(data))


def refused(data: bytes, name: str = "thing", **options: int) -> AssetError:
    """The error that the decoder raises."""
    with pytest.raises(AssetError) as caught:
        decoded(data, name, **options)
    assert (caught.value.uri, caught.value.stage) == (f"mem://{name}", "decode")
    return caught.value


def reason(data: bytes, name: str = "thing", **options: int) -> Reason:
    """Why the decoder refuses ``data``."""
    return refused(data, name, **options).reason
