"""The decoder that sends each asset to the decoder of its modality."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import Decoder, Picture, Shape, Video
from tokenmill.decoders.by_modality import ByModality
from tokenmill.testing.films import FilmDecoder
from tokenmill.testing.pictures import encoded, noise
from tokenmill.testing.shape_files import obj
from tokenmill.testing.shapes import box
from tokenmill_schemas.asset import MODALITIES, AssetRef, Modality
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import AssetError, Reason

CLIP = Path(__file__).parents[3] / "pipelines/samples/videos/band/duo.3gp"


def decoder(*modalities: Modality) -> ByModality:
    """The default decoders of some modalities."""
    return ByModality({name: open_decoder(name) for name in modalities})


def bytes_of(modality: Modality) -> bytes:
    """A good asset."""
    if modality == "image":
        return encoded(noise(size=(9, 8), seed=1), "PNG")
    return CLIP.read_bytes() if modality == "video" else obj(box())


def decoded(by: Decoder, modality: Modality) -> Picture | Video | Shape:
    """What it makes of a good asset."""
    data = bytes_of(modality)
    media: Picture | Video | Shape = by.decode(
        AssetRef("key", "memory://asset", modality=modality, size_bytes=len(data)),
        io.BytesIO(data),
    )
    return media


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_asset_goes_to_the_decoder_of_its_modality(modality: Modality) -> None:
    """What comes out has the facts that its own decoder gives."""
    media, alone = (
        decoded(decoder(*MODALITIES), modality),
        decoded(open_decoder(modality), modality),
    )
    assert type(media) is type(alone)
    assert media.facts == alone.facts
    for each in (media, alone):
        each.close()


def test_facts_are_the_union_and_null_where_a_decoder_has_none() -> None:
    """Rows of all three fit; what all have is required."""
    by = decoder(*MODALITIES)
    schema = by.facts()
    parts = [open_decoder(name).facts() for name in MODALITIES]
    assert set(schema.names) == {name for part in parts for name in part.names}
    required = {column.name for column in schema if not column.nullable}
    assert required == {"asset.uri", "asset.format"}
    rows = [decoded(by, name).facts for name in MODALITIES]
    table = pa.Table.from_pylist(rows, schema=schema)
    table.validate(full=True)
    assert table.column("asset.codec").is_valid().to_pylist() == [False, True, False]
    assert table.column("asset.bounds").is_valid().to_pylist() == [False, False, True]
    assert table.column("asset.width").is_valid().to_pylist() == [True, True, False]


def test_one_decoder_keeps_its_columns_as_they_are() -> None:
    """A union of one changes nothing."""
    assert decoder("image").facts() == open_decoder("image").facts()


def test_an_asset_of_no_decoders_modality_is_refused_by_that_name() -> None:
    """It says what it is and what is read."""
    with pytest.raises(AssetError, match="a shape; this job reads image, video") as caught:
        decoded(decoder("image", "video"), "shape")
    assert (caught.value.reason, caught.value.stage) == (Reason.OTHER_MODALITY, "decode")
    assert caught.value.uri == "memory://asset"


def test_identity_is_that_of_its_parts() -> None:
    """Another decoder, or one more, is another identity; the order in which they are given is not.

    Limits decide what is refused and not what is made: they are no part of it.
    """
    by = decoder("image", "video")
    others = [decoder("image"), decoder(*MODALITIES), ByModality({"video": FilmDecoder()})]
    assert len({canonical_json(each.identity) for each in (by, *others)}) == 4
    swapped = decoder("video", "image")
    assert canonical_json(swapped.identity) == canonical_json(by.identity)
    assert swapped.modalities == by.modalities == ("image", "video")
    copy = pickle.loads(pickle.dumps(by))
    assert copy == by
    assert copy.identity == by.identity
