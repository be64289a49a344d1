"""The contract of a decoder, for our kinds and yours: call `check_decoder` in a test."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import Decoder, Picture
from tokenmill.testing.checks import require, require_identity
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError


def check_decoder(decoder: Decoder, good: bytes, bad: bytes) -> Picture:
    """Check every promise of `tokenmill.decoders.base.Decoder` on one good and one bad asset.

    Returns:
        What ``good`` decodes to.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    require_identity(decoder)
    clone = pickle.loads(pickle.dumps(decoder))  # noqa: S301 - our own bytes
    require(clone == decoder, "a pickled decoder equals its original")
    picture = _decode(decoder, good)
    _check_picture(decoder, picture)
    for other in _in_threads(clone, good):
        require(other.facts == picture.facts, "facts are deterministic")
        equal = np.array_equal(np.asarray(other.image), np.asarray(picture.image))
        require(equal, "pixels are deterministic, in threads and after pickling")
    check_refused(decoder, bad)
    return picture


def check_refused(decoder: Decoder, bad: bytes) -> AssetError:
    """Check that ``bad`` is refused as one asset's error that names the asset and the stage."""
    try:
        _decode(decoder, bad)
    except AssetError as error:
        require(error.uri == "memory://asset", "an asset error names the asset")
        require(error.stage == "decode", "an asset error names the stage")
        return error
    raise AssertionError("bad bytes must raise AssetError")


def _decode(decoder: Decoder, data: bytes) -> Picture:
    ref = AssetRef("asset", "memory://asset", size_bytes=len(data))
    picture: Picture = decoder.decode(ref, io.BytesIO(data))
    return picture


def _in_threads(decoder: Decoder, data: bytes) -> list[Picture]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: _decode(decoder, data), range(8)))


def _check_picture(decoder: Decoder, picture: Picture) -> None:
    require(picture.image.mode == "RGB", "a picture is RGB")
    schema = decoder.facts()
    require(list(picture.facts) == schema.names, "facts are the columns of facts(), in order")
    row = pa.Table.from_pylist([picture.facts], schema=schema)
    row.validate(full=True)
