import pyarrow as pa
import pytest

from tokenmill_schemas.arrow import (
    ShardLayout,
    bits_per_value,
    is_packed,
    layout_of,
    stream_fields,
    values_per_sample,
)
from tokenmill_schemas.tokens import Axis, Latent, Stream, TokenSpec

GRID = Stream("image", "index", (Axis("h", 16), Axis("w", 16)), vocab_sizes=(16384,))
SET = Stream("mesh", "index", (Axis("n"), Axis("coord", 3)), vocab_sizes=(128,))
CODE = Stream("code", "bits", (Axis("n", 5),), width_bits=13)
LATENT = Stream(
    "z", "float", (Axis("h"), Axis("w")), channels=4, dtype="bfloat16", latent=Latent("mean")
)


def _type(stream: Stream, packing: str) -> str:
    return str(stream_fields(stream, "bits" if packing == "bits" else "raw")[0].type)


@pytest.mark.parametrize(
    ("stream", "packing", "expected"),
    [
        (GRID, "raw", "fixed_size_list<item: uint16 not null>[256]"),
        (GRID, "bits", "fixed_size_binary[448]"),  # 256 x 14 bits
        (SET, "raw", "list<item: uint8 not null>"),
        (SET, "bits", "binary"),
        (CODE, "raw", "fixed_size_binary[9]"),  # 65 bits: bit streams are always packed
        (CODE, "bits", "fixed_size_binary[9]"),
        (LATENT, "raw", "list<item: uint16 not null>"),  # bfloat16 as its bits
        (LATENT, "bits", "list<item: uint16 not null>"),  # floats are never packed
    ],
)
def test_columns_have_the_types_that_the_format_promises(
    stream: Stream, packing: str, expected: str
) -> None:
    """The storage of each kind of stream, raw and packed."""
    assert _type(stream, packing) == expected


@pytest.mark.parametrize(
    ("vocab", "item", "bits"),
    [
        (1, "uint8", 1),
        (2, "uint8", 1),
        (256, "uint8", 8),
        (257, "uint16", 9),
        (65536, "uint16", 16),
        (65537, "uint32", 17),
        (2**32, "uint32", 32),
    ],
)
def test_ids_take_the_narrowest_type(vocab: int, item: str, bits: int) -> None:
    """The largest id decides, not the size itself: 256 ids fit 8 bits."""
    stream = Stream("image", "index", (Axis("n", 4),), vocab_sizes=(vocab,))
    assert _type(stream, "raw") == f"fixed_size_list<item: {item} not null>[4]"
    assert bits_per_value(stream) == bits


def test_variable_streams_have_a_shape_column_next_to_them() -> None:
    """One int32 per dimension, channels counted."""
    assert [f.name for f in stream_fields(LATENT, "raw")] == ["z", "z.shape"]
    assert stream_fields(LATENT, "raw")[1].type == pa.list_(pa.int32(), 3)
    assert values_per_sample(LATENT) is None
    assert values_per_sample(CODE) == 65


def test_packed_columns_say_their_width() -> None:
    """The field's metadata is enough to unpack a column."""
    (field,) = stream_fields(GRID, "bits")
    assert field.metadata == {b"tokenmill.stream": b"image", b"tokenmill.bits_per_value": b"14"}
    assert is_packed(CODE, "raw")
    assert not is_packed(GRID, "raw")


@pytest.mark.parametrize("packing", ["raw", "bits"])
def test_a_layout_is_read_back_from_its_schema(packing: str) -> None:
    """Through the schema's own bytes, companion columns included."""
    extras = pa.schema(
        [pa.field("view.index", pa.uint16(), nullable=False), ("caption", pa.string())]
    )
    spec = TokenSpec((GRID, SET, CODE, LATENT))
    layout = ShardLayout(spec, "bits" if packing == "bits" else "raw", extras)
    assert layout_of(pa.ipc.read_schema(layout.schema.serialize())) == layout


def test_columns_come_in_the_documented_order() -> None:
    """Streams, their shapes, the names, then everything else."""
    layout = ShardLayout(TokenSpec((SET, GRID)), "raw", pa.schema([("caption", pa.string())]))
    names = ["mesh", "mesh.shape", "image", "sample_id", "asset_key", "caption"]
    assert layout.schema.names == names
    assert layout.schema.metadata[b"tokenmill.format_version"] == b"1"
