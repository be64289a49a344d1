from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import DecodeLimits, Picture
from tokenmill.decoders.containers import ends_early, sniff, webp_size
from tokenmill.decoders.image import ImageDecoder
from tokenmill.plugins import kinds
from tokenmill.testing.decoders import check_decoder, check_refused
from tokenmill.testing.pictures import encoded, noise, raw_png
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

GREEN = (10, 200, 30)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000")
LOSSLESS = ("PNG", "WEBP", "TIFF", "BMP", "JPEG2000")
Array = npt.NDArray[Any]


def decoded(data: bytes, **options: Any) -> Picture:
    """What the decoder makes of ``data``."""
    ref = AssetRef("k", "mem://a", size_bytes=len(data))
    return ImageDecoder(**options).decode(ref, io.BytesIO(data))


def pixels(data: bytes, **options: Any) -> Array:
    """The decoded pixels as signed integers."""
    return np.asarray(decoded(data, **options).image).astype(int)


def refused(data: bytes, **options: Any) -> AssetError:
    """The error that the decoder raises."""
    with pytest.raises(AssetError) as caught:
        decoded(data, **options)
    assert (caught.value.uri, caught.value.stage) == ("mem://a", "decode")
    return caught.value


def test_the_contract_holds_for_every_kind() -> None:
    """Every decoder that is found keeps the shipped contract."""
    assert "image" in kinds("tokenmill.decoders")
    picture = check_decoder(open_decoder("image"), encoded(noise(), "PNG"), b"not a picture")
    assert np.array_equal(np.asarray(picture.image), np.asarray(noise()))


@pytest.mark.parametrize("name", FORMATS)
def test_formats_decode_with_their_facts(name: str) -> None:
    """Every format gives RGB near the original, and the columns say what was found."""
    smooth = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    picture = decoded(encoded(smooth, name))
    facts = picture.facts
    assert (facts["asset.width"], facts["asset.height"]) == (64, 48)
    assert facts["asset.format"] == name
    assert facts["asset.mode"] == ("P" if name == "GIF" else "RGB")
    assert (facts["asset.orientation"], facts["asset.icc_sha256"]) == (1, "")
    assert picture.image.mode == "RGB"
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(smooth)).mean() < 3


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_are_exact(name: str) -> None:
    """No value changes between a lossless file and its pixels."""
    assert np.array_equal(pixels(encoded(noise(), name)), np.asarray(noise()))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(name: str, orientation: int) -> None:
    """Pixels stand upright, facts keep the stored size and the tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
    stored.paste((255, 0, 0), (0, 0, 8, 8))
    picture = decoded(encoded(stored, name, exif=exif))
    array = np.asarray(stored).astype(int)
    turns: dict[int, Array] = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array[::-1].transpose(1, 0, 2),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: array[:, ::-1].transpose(1, 0, 2),
    }
    got = np.asarray(picture.image).astype(int)
    assert got.shape == turns[orientation].shape
    assert np.abs(got - turns[orientation]).mean() < 6
    assert picture.facts["asset.orientation"] == orientation
    assert (picture.facts["asset.width"], picture.facts["asset.height"]) == (32, 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_does_not_spoil_the_pixels(exif: bytes) -> None:
    """A picture whose metadata is broken is upright and whole."""
    picture = decoded(encoded(noise(), "JPEG", exif=exif))
    assert picture.facts["asset.orientation"] == 1


@pytest.mark.parametrize("name", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_the_first_frame_of_many_is_taken(name: str) -> None:
    """An animation is its first frame."""
    first, second = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    data = encoded(first, name, save_all=True, append_images=[second])
    got = pixels(data)
    assert np.abs(got - np.array([255, 0, 0])).max() <= 4


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_files_cut_short_are_truncated(name: str, part: float) -> None:
    """A file that ends in its pixels is called truncated, whatever its format."""
    data = encoded(noise("RGB", (96, 80)), name)
    assert refused(data[: int(len(data) * part)]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_do_not_end_early(name: str) -> None:
    """The structure of a whole file says that nothing is missing."""
    data = encoded(noise("RGB", (96, 80)), name)
    assert sniff(data) == name
    assert not ends_early(name, data)
    assert ends_early(name, data[: len(data) - len(data) // 8])


def test_jpeg_2000_codestreams_are_whole_or_truncated() -> None:
    """Bare codestreams end with their end marker, whatever padding follows."""
    data = encoded(noise("RGB", (96, 80)), "JPEG2000", no_jp2=True)
    assert sniff(data) == "JPEG2000"
    assert np.array_equal(pixels(data + b"\0padding"), np.asarray(noise("RGB", (96, 80))))
    assert refused(data[:-2]).reason is Reason.TRUNCATED


def test_tiled_and_compressed_tiffs_cut_short_are_truncated() -> None:
    """Strips of every compression are missed where they are missing."""
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        data = encoded(noise("RGB", (96, 80)), "TIFF", compression=compression)
        assert np.array_equal(pixels(data).shape, (80, 96, 3))
        assert refused(data[: len(data) // 2]).reason is Reason.TRUNCATED


def test_damage_inside_a_whole_file_is_corrupt() -> None:
    """Bytes that are all there but make no sense are corrupt, not truncated."""
    whole = encoded(noise(), "PNG")
    at = whole.index(b"IDAT") + 4
    broken = whole[:at] + b"\xff" * 40 + whole[at + 40 :]
    assert refused(broken).reason is Reason.CORRUPT
    jpeg = encoded(noise(), "JPEG")
    at = jpeg.index(b"\xff\xc4")
    broken = jpeg[: at + 4] + b"\xff" * 30 + jpeg[at + 34 :]
    assert refused(broken).reason is Reason.CORRUPT


def test_bytes_that_are_no_picture() -> None:
    """Text and nothing have reasons of their own; the message shows what was found."""
    error = refused(b"<!doctype html><title>404</title>")
    assert error.reason is Reason.UNKNOWN_FORMAT
    assert "<!doctype html>" in str(error)
    assert refused(b"BMW, a car").reason is Reason.UNKNOWN_FORMAT
    assert refused(b"").reason is Reason.EMPTY


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns=''/>", "SVG"),
    ],
)
def test_pictures_of_other_formats_are_named(data: bytes, name: str) -> None:
    """A known picture format that is not decoded is unsupported, by its name."""
    error = refused(data)
    assert error.reason is Reason.UNSUPPORTED
    assert name in str(error)


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_are_limited_by_the_header(name: str) -> None:
    """The claim is refused before decoding: even of a file whose pixels are missing."""
    data = encoded(noise("RGB", (64, 48)), name)
    limits = DecodeLimits(max_pixels=64 * 48 - 1)
    error = refused(data, limits=limits)
    assert error.reason is Reason.TOO_MANY_PIXELS
    assert "64x48" in str(error)
    assert decoded(data, limits=DecodeLimits(max_pixels=64 * 48)).image.size == (64, 48)


def test_decompression_bombs_cost_nothing() -> None:
    """A few hundred bytes that claim 10 gigapixels are refused by PNG's and WebP's headers."""
    bomb = raw_png((100_000, 100_000, 8, 2), b"")
    assert refused(bomb).reason is Reason.TOO_MANY_PIXELS
    canvas = struct.pack("<I", 0) + (16382).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    webp = b"RIFF" + struct.pack("<I", len(webp)) + webp
    assert webp_size(webp) == (16383, 16383)
    assert refused(webp).reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_sizes_are_read_from_the_header(lossless: bool) -> None:
    """Lossy, lossless and extended files all state their size up front."""
    for mode in ("RGB", "RGBA"):
        data = encoded(noise(mode, (61, 37)), "WEBP", lossless=lossless)
        assert webp_size(data) == (61, 37)


class Counting(io.RawIOBase):
    """An endless stream that counts what is asked of it and answers in small pieces."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        """At most 1000 bytes."""
        part = min(size, 1000)
        self.given += part
        return b"\0" * part


def test_no_more_than_the_limit_is_read() -> None:
    """An endless stream is left after one byte above the limit; a listed size is believed first."""
    decoder = ImageDecoder(limits=DecodeLimits(max_asset_bytes=5000))
    stream = Counting()
    with pytest.raises(AssetError) as caught:
        decoder.decode(AssetRef("k", "mem://a"), cast("BinaryIO", stream))
    assert caught.value.reason is Reason.TOO_MANY_BYTES
    assert stream.given == 5001
    unread = Counting()
    with pytest.raises(AssetError, match="listed with 5001 bytes"):
        decoder.decode(AssetRef("k", "mem://a", size_bytes=5001), cast("BinaryIO", unread))
    assert unread.given == 0


def test_streams_in_pieces_and_with_wrong_sizes_are_read_whole() -> None:
    """Short reads and a listed size that is too small change nothing."""

    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 100))

    data = encoded(noise("RGB", (64, 64)), "PNG")
    for listed in (-1, 10, len(data), 10**6):
        ref = AssetRef("k", "mem://a", size_bytes=listed)
        picture = ImageDecoder().decode(ref, Pieces(data))
        assert np.array_equal(np.asarray(picture.image), np.asarray(noise("RGB", (64, 64))))


def test_a_stream_that_fails_is_unreadable() -> None:
    """An OSError of the stream is the asset's, with its reason."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("I/O error")

    with pytest.raises(AssetError, match="I/O error") as caught:
        ImageDecoder().decode(AssetRef("k", "mem://a"), Broken())
    assert caught.value.reason is Reason.UNREADABLE


@given(st.sampled_from(FORMATS), st.data())
@settings(max_examples=150, deadline=None)
def test_no_damage_raises_anything_but_an_asset_error(name: str, data: st.DataObject) -> None:
    """Random damage gives a picture within the limits or an AssetError, never another error."""
    whole = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    kept = bytes(whole[: cut or len(whole)])
    try:
        picture = decoded(kept, limits=DecodeLimits(max_pixels=10**6))
    except AssetError:
        return  # test_refusals_keep_the_contract looks into these
    assert picture.image.mode == "RGB"
    assert picture.image.size[0] * picture.image.size[1] <= 10**6


SEEDS = {name: encoded(noise("RGB", (12, 9)), name) for name in FORMATS}


def test_refusals_keep_the_contract() -> None:
    """Errors of every kind name the asset and the stage, and survive pickling."""
    for bad in (b"", b"text", encoded(noise(), "PNG")[:60]):
        assert check_refused(ImageDecoder(), bad).reason in Reason


def test_the_identity_names_what_changes_pixels() -> None:
    """Background, Pillow and the lossy libraries are in it; limits are not."""
    identity = ImageDecoder(background=GREEN).identity
    assert identity["background"] == list(GREEN)
    assert identity["libraries"]["libjpeg_turbo"] == features.version("libjpeg_turbo")
    assert identity != ImageDecoder().identity
    assert ImageDecoder(limits=DecodeLimits(1, 1)).identity == ImageDecoder().identity


def test_options_are_checked() -> None:
    """A background outside 0..255 and unknown keys are job errors."""
    with pytest.raises(JobError, match=r"0\.\.255"):
        open_decoder(background=[0, 0, 256])
    with pytest.raises(JobError, match="did you mean 'background'"):
        open_decoder(backgroud=[0, 0, 0])
    assert open_decoder(limits={"max_pixels": 5}) == ImageDecoder(limits=DecodeLimits(max_pixels=5))
