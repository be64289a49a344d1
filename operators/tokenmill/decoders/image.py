"""Pictures through Pillow: JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP and JPEG 2000.

A file plugin is called directly, chosen by the bytes' signature, instead of through
`PIL.Image.open`: that tries plugins in turn and judges size by process-wide settings and Python
warnings, which threads share. Here the claimed size is checked against this decoder's own limit
after the header and before any pixel is allocated. Pillow holds no lock while it decodes, and
nothing global is changed, so one decoder serves any number of threads.

The first frame of an animation is taken. ICC profiles are recorded and not applied: the authors of
published tokenizers did not apply them.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL import __version__ as pillow_version

from tokenmill.decoders.base import DecodeLimits, Picture
from tokenmill.decoders.containers import ends_early, png_bit_depth, sniff, webp_size
from tokenmill.decoders.modes import ModeError, to_rgb
from tokenmill.decoders.reading import read_within
from tokenmill_schemas.arrow import IMAGE_FACT_FIELDS
from tokenmill_schemas.asset import AssetRef, Modality
from tokenmill_schemas.errors import AssetError, Reason

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
_NEEDS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000", "LAB": "littlecms2"}
#: Libraries whose version can change a pixel; the lossless ones (zlib) cannot.
_LIBRARIES = ("libjpeg_turbo", "jpg", "webp", "avif", "jpg_2000", "libtiff", "littlecms2")

#: What Pillow's plugins raise on bytes that are not what they claim. `MemoryError` is not among
#: them: it is the machine's fault, and the asset may decode elsewhere.
_BAD_BYTES = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, RuntimeError, EOFError, struct.error, zlib.error, Warning,
)  # fmt: skip
_TOO_BIG = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_UNSUPPORTED = ("unsupported", "unknown", "cannot handle", "not support", "not handle")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """Decodes one picture to upright 8-bit RGB; see `tokenmill.decoders.modes` for the arithmetic.

    Attributes:
        background: RGB that shows through transparent pixels.
        limits: what a file may weigh and claim before it is read and decoded.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"background must be three values in 0..255, got {self.background}")

    @property
    def identity(self) -> dict[str, Any]:
        """Name, rules' version, background, and the libraries that can change a pixel."""
        return {
            "decoder": "image",
            "rules": 1,
            "background": list(self.background),
            "pillow": pillow_version,
            "libraries": {name: features.version(name) for name in _LIBRARIES},
        }

    def facts(self) -> pa.Schema:
        """Return the ``asset.*`` columns, `tokenmill_schemas.arrow.IMAGE_FACT_FIELDS`."""
        return pa.schema(IMAGE_FACT_FIELDS)

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Picture:
        """Decode one picture.

        Raises:
            AssetError: ``unreadable``, ``empty``, ``too_many_bytes``, ``unknown_format``,
                ``unsupported``, ``too_many_pixels``, ``truncated`` or ``corrupt``; the message
                says what was found.
            MemoryError: the machine, not the asset, is short of memory.
        """
        try:
            data = read_within(stream, ref.size_bytes, self.limits.max_asset_bytes)
            return self._decode(_known_format(data), data, ref)
        except AssetError as error:
            error.uri, error.stage = ref.uri, "decode"
            raise

    def _decode(self, name: str, data: bytes, ref: AssetRef) -> Picture:
        try:
            return self._picture(name, data, ref)
        except _TOO_BIG as error:
            raise AssetError(Reason.TOO_MANY_PIXELS, f"{name}: {error}") from error
        except _BAD_BYTES as error:
            text = f"{name} of {len(data)} bytes: {type(error).__name__}: {error}"
            raise AssetError(_reason(name, data, error), text) from error

    def _picture(self, name: str, data: bytes, ref: AssetRef) -> Picture:
        if name == "WEBP":
            self._check_pixels(name, webp_size(data))
        if name == "JPEG2000" and ends_early(name, data):
            # OpenJPEG fills what is missing with grey and says nothing.
            raise AssetError(Reason.TRUNCATED, f"{name} of {len(data)} bytes ends early")
        image = _PLUGINS[name](BytesIO(data), "")
        self._check_pixels(name, image.size)
        mode, size = image.mode, image.size
        turned = _orientation(image) if name == "TIFF" else 0  # Pillow turns TIFFs as it loads
        if turned > 4:
            size = size[1], size[0]
        image.load()
        orientation = turned or _orientation(image)
        rgb = to_rgb(image, self.background, png_bit_depth(data) if name == "PNG" else 8)
        upright = rgb if turned else _upright(rgb, orientation)
        facts = {
            "asset.uri": ref.uri,
            "asset.width": size[0],
            "asset.height": size[1],
            "asset.format": name,
            "asset.mode": mode,
            "asset.orientation": orientation,
            "asset.icc_sha256": _icc_sha256(image),
        }
        return Picture(upright, facts)

    def _check_pixels(self, name: str, size: tuple[int, int] | None) -> None:
        limit = self.limits.max_pixels
        if size is not None and size[0] * size[1] > limit:
            claim = f"{name} claims {size[0]}x{size[1]} = {size[0] * size[1]} pixels"
            raise AssetError(Reason.TOO_MANY_PIXELS, f"{claim}; the limit is {limit}")


def _known_format(data: bytes) -> str:
    """Return the format to decode ``data`` as."""
    if not data:
        raise AssetError(Reason.EMPTY, "0 bytes")
    name = sniff(data)
    if name is None:
        text = f"no known picture format: {len(data)} bytes that start with {data[:16]!r}"
        raise AssetError(Reason.UNKNOWN_FORMAT, text)
    if name not in _PLUGINS:
        raise AssetError(Reason.UNSUPPORTED, f"{name}, which is not decoded here")
    if name in _NEEDS and not features.check(_NEEDS[name]):
        raise AssetError(Reason.UNSUPPORTED, f"{name}: this Pillow was built without it")
    return name


def _reason(name: str, data: bytes, error: Exception) -> Reason:
    """Tell a format that is not handled, a file cut short, and a damaged one apart."""
    text = str(error).lower()
    if isinstance(error, ModeError | NotImplementedError) or any(w in text for w in _UNSUPPORTED):
        return Reason.UNSUPPORTED
    if "truncated" in text or ends_early(name, data):
        return Reason.TRUNCATED
    return Reason.CORRUPT


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 where EXIF is missing, damaged or out of range."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BAD_BYTES:  # damaged metadata does not spoil the pixels
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    upright = image.transpose(_UPRIGHT[orientation])
    upright.info.clear()  # its EXIF would turn it a second time
    return upright


def _icc_sha256(image: Image.Image) -> str:
    profile = image.info.get("icc_profile")
    return hashlib.sha256(profile).hexdigest() if profile else ""


PLUGIN = ImageDecoder
