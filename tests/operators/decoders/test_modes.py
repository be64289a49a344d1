from __future__ import annotations

import hashlib
import io
import struct
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from tokenmill.decoders.base import Picture
from tokenmill.decoders.image import ImageDecoder
from tokenmill.decoders.modes import ModeError, to_rgb
from tokenmill.testing.pictures import encoded, noise, png_chunk, raw_png
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason

GREEN = (10, 200, 30)

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


def over(colour: Array, alpha: Array, background: tuple[int, int, int]) -> Array:
    """The stated arithmetic: the nearest integer to the blend."""
    blend: Array = colour * alpha[..., None] + np.array(background) * (255 - alpha[..., None])
    nearest: Array = (2 * blend + 255) // 510
    return nearest


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
    data = raw_png(
        (len(want), 1, depth, 0), b"\0" + samples, png_chunk(b"tRNS", struct.pack(">H", key))
    )
    expected = [list(GREEN) if value is None else [value] * 3 for value in want]
    assert pixels(data, background=GREEN)[0].tolist() == expected


def test_a_transparent_colour_of_rgb() -> None:
    """The tRNS of an RGB PNG hides that very colour; in 16 bits its low bytes are lost."""
    trns = png_chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    data = raw_png((2, 1, 8, 2), b"\0\1\2\3\1\2\4", trns)
    assert pixels(data, background=GREEN)[0].tolist() == [list(GREEN), [1, 2, 4]]
    wide = raw_png((1, 1, 16, 2), b"\0\0\1\0\2\0\3", trns)
    assert refused(wide).reason is Reason.UNSUPPORTED


def test_sixteen_bits_lose_their_low_byte() -> None:
    """Grey and RGB of 16 bits are value >> 8: neither clipped nor stretched."""
    values = np.array([[0, 255, 256, 0x1234, 0x80FF, 65535]], np.uint16)
    want = (values >> 8).repeat(3).reshape(1, -1, 3).tolist()
    grey = Image.fromarray(values)
    assert pixels(encoded(grey, "PNG")).tolist() == want
    assert pixels(encoded(grey, "TIFF")).tolist() == want
    rows = b"\0" + values.astype(">u2").repeat(3).tobytes()
    assert pixels(raw_png((6, 1, 16, 2), rows)).tolist() == want
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


def test_plain_pictures_are_not_copied() -> None:
    """An RGB picture without alpha or rotation is the very object that was decoded."""
    image = noise()
    assert to_rgb(image, GREEN, 8) is image
