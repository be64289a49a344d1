from __future__ import annotations

import hashlib
import io
import struct
import zlib
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
from tokenmill.decoders.modes import ModeError, to_rgb
from tokenmill.plugins import kinds
from tokenmill.testing.decoders import check_decoder, check_refused
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

GREEN = (10, 200, 30)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000")
LOSSLESS = ("PNG", "WEBP", "TIFF", "BMP", "JPEG2000")
Array = npt.NDArray[Any]


def noise(mode: str = "RGB", size: tuple[int, int] = (23, 17)) -> Image.Image:
    """A small picture of ``mode`` whose every channel is noise."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    if bands == 1:
        return Image.frombytes(mode, size, values.tobytes())
    return Image.merge(mode, [Image.fromarray(values[..., i]) for i in range(bands)])


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """The picture's bytes in format ``name``, lossless where the format can."""
    out = io.BytesIO()
    if name == "WEBP":
        options = {"lossless": True} | options
    image.save(out, name, **options)
    return out.getvalue()


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


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from raw rows (each with its filter byte); ``extra`` chunks go before the data."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def over(colour: Array, alpha: Array, background: tuple[int, int, int]) -> Array:
    """The stated arithmetic: the nearest integer to the blend."""
    blend: Array = colour * alpha[..., None] + np.array(background) * (255 - alpha[..., None])
    nearest: Array = (2 * blend + 255) // 510
    return nearest


def test_the_contract_holds_for_every_kind() -> None:
    """Every decoder that is found keeps the shipped contract."""
    assert kinds("tokenmill.decoders") == ["image"]
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


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), GREEN])
@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF")],
)
def test_alpha_is_laid_over_the_background(
    mode: str, name: str, background: tuple[int, int, int]
) -> None:
    """Every channel is the nearest integer to the blend, for every alpha."""
    image = noise(mode, (64, 64))
    data = encoded(image, name, **({"exact": True} if name == "WEBP" else {}))
    array = np.asarray(image).astype(int)
    colour = np.repeat(array[..., :-1], 3, axis=-1) if mode == "LA" else array[..., :-1]
    want = over(colour, array[..., -1], background)
    assert np.array_equal(pixels(data, background=background), want)


def test_all_alphas_and_colours_blend_exactly() -> None:
    """All 65,536 pairs of colour and alpha agree with the stated arithmetic."""
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    image = np.stack([colour, colour, colour, alpha], axis=-1).astype(np.uint8)
    got = np.asarray(to_rgb(Image.fromarray(image), GREEN, 8)).astype(int)
    assert np.array_equal(got, over(np.repeat(colour[..., None], 3, -1), alpha, GREEN))


def test_palettes_with_one_and_with_graded_transparency() -> None:
    """GIF's transparent index and PNG's alpha table both show the background."""
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    gif = pixels(encoded(image, "GIF", transparency=1), background=GREEN)
    assert gif[0].tolist() == [[255, 0, 0], list(GREEN), [0, 0, 255]]
    graded = pixels(encoded(image, "PNG", transparency=bytes([255, 0, 128])), background=GREEN)
    blended = over(np.array([[0, 0, 255]]), np.array([128]), GREEN)[0].tolist()
    assert graded[0].tolist() == [[255, 0, 0], list(GREEN), blended]


def test_palettes_are_looked_up() -> None:
    """A palette picture without transparency is its colours."""
    image = noise("RGB").quantize(16)
    assert np.array_equal(pixels(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("depth", "samples", "key", "want"),
    [
        (8, b"\x00\x05\xff", 5, [0, None, 255]),
        (2, b"\x1b", 2, [0, 85, None, 255]),
        (4, b"\x0f\x30", 3, [0, 255, None, 0]),
        (1, b"\x40", 1, [0, None, 0]),
        (16, b"\x00\x05\x12\x34\xff\xff", 0x1234, [0, None, 255]),
        (16, b"\x12\x35\x12\x34\xff\xff", 0x1234, [0x12, None, 255]),
        (8, b"\x00\x05\xff", 0x105, [0, 5, 255]),
    ],
)
def test_a_transparent_grey_is_compared_before_scaling(
    depth: int, samples: bytes, key: int, want: list[int | None]
) -> None:
    """The tRNS of a grey PNG names a stored sample, at any bit depth."""
    data = png((len(want), 1), depth, 0, b"\0" + samples, chunk(b"tRNS", struct.pack(">H", key)))
    expected = [list(GREEN) if value is None else [value] * 3 for value in want]
    assert pixels(data, background=GREEN)[0].tolist() == expected


def test_a_transparent_colour_of_rgb() -> None:
    """The tRNS of an RGB PNG hides that very colour; in 16 bits its low bytes are lost."""
    trns = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    data = png((2, 1), 8, 2, b"\0\1\2\3\1\2\4", trns)
    assert pixels(data, background=GREEN)[0].tolist() == [list(GREEN), [1, 2, 4]]
    wide = png((1, 1), 16, 2, b"\0\0\1\0\2\0\3", trns)
    assert refused(wide).reason is Reason.UNSUPPORTED


def test_sixteen_bits_lose_their_low_byte() -> None:
    """Grey and RGB of 16 bits are value >> 8: neither clipped nor stretched."""
    values = np.array([[0, 255, 256, 0x1234, 0x80FF, 65535]], np.uint16)
    want = (values >> 8).repeat(3).reshape(1, -1, 3).tolist()
    grey = Image.fromarray(values)
    assert pixels(encoded(grey, "PNG")).tolist() == want
    assert pixels(encoded(grey, "TIFF")).tolist() == want
    rows = b"\0" + values.astype(">u2").repeat(3).tobytes()
    assert pixels(png((6, 1), 16, 2, rows)).tolist() == want
    assert to_rgb(grey.convert("I"), GREEN, 8).getpixel((3, 0)) == (0x12,) * 3


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_is_repeated(mode: str) -> None:
    """All three channels equal the grey value."""
    image = noise("L").convert(mode)
    want = np.asarray(image.convert("L")).astype(int)[..., None].repeat(3, axis=-1)
    assert np.array_equal(pixels(encoded(image, "PNG")), want)


def test_cmyk_is_converted_and_adobe_inversion_undone() -> None:
    """A CMYK TIFF and an (inverted) CMYK JPEG of one flat ink give the same colour."""
    ink = Image.new("CMYK", (16, 16), (0, 255, 128, 10))
    want = ink.convert("RGB").getpixel((0, 0))
    tiff, jpeg = decoded(encoded(ink, "TIFF")), decoded(encoded(ink, "JPEG"))
    assert tiff.image.getpixel((3, 3)) == want
    assert np.abs(np.asarray(jpeg.image).astype(int) - np.array(want)).max() <= 3
    assert (tiff.facts["asset.mode"], jpeg.facts["asset.mode"]) == ("CMYK", "CMYK")


def test_lab_and_ycbcr_tiffs_become_srgb() -> None:
    """Mid grey stays grey through both; LAB needs LittleCMS."""
    assert features.check("littlecms2")
    lab = Image.new("LAB", (4, 4), (128, 128, 128))
    grey = cast("tuple[int, int, int]", decoded(encoded(lab, "TIFF")).image.getpixel((0, 0)))
    assert max(grey) - min(grey) <= 2
    ycbcr = Image.new("YCbCr", (4, 4), (100, 128, 128))
    assert decoded(encoded(ycbcr, "TIFF")).image.getpixel((0, 0)) == (100, 100, 100)


def test_pictures_without_a_stated_white_are_refused() -> None:
    """Float TIFFs, and integers outside 16 bits, are unsupported; the range is named."""
    real = Image.fromarray(np.ones((4, 4), np.float32))
    assert refused(encoded(real, "TIFF")).reason is Reason.UNSUPPORTED
    wide = Image.fromarray(np.array([[-5, 70000]], np.int32))
    error = refused(encoded(wide, "TIFF"))
    assert error.reason is Reason.UNSUPPORTED
    assert "-5..70000" in str(error)
    with pytest.raises(ModeError, match="mode F has no stated black and white"):
        to_rgb(real, GREEN, 8)


def test_premultiplied_alpha_is_straightened() -> None:
    """Modes La and RGBa blend to what their straight twins do, within their rounding."""
    straight = noise("RGBA", (32, 32))
    straight.putalpha(200)
    got = np.asarray(to_rgb(straight.convert("RGBa"), GREEN, 8)).astype(int)
    want = np.asarray(to_rgb(straight, GREEN, 8)).astype(int)
    assert np.abs(got - want).max() <= 1
    grey = noise("LA", (32, 32))
    grey.putalpha(200)
    got = np.asarray(to_rgb(grey.convert("La"), GREEN, 8)).astype(int)
    assert np.abs(got - np.asarray(to_rgb(grey, GREEN, 8)).astype(int)).max() <= 1


def test_icc_profiles_are_recorded_and_not_applied() -> None:
    """The profile's sha256 is a fact; the pixels are those without it."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture = decoded(encoded(noise(), "PNG", icc_profile=profile))
    assert picture.facts["asset.icc_sha256"] == hashlib.sha256(profile).hexdigest()
    assert np.array_equal(np.asarray(picture.image), np.asarray(noise()))


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
    bomb = png((100_000, 100_000), 8, 2, b"")
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


def test_plain_pictures_are_not_copied() -> None:
    """An RGB picture without alpha or rotation is the very object that was decoded."""
    image = noise()
    assert to_rgb(image, GREEN, 8) is image
