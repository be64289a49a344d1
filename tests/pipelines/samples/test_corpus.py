import io
import json
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from tokenmill.decoders.image import ImageDecoder
from tokenmill_pipelines.samples.make_images import BAD, bomb, licences, listing
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason

ROOT = Path(__file__).parents[3] / "pipelines/samples"
ROWS = [json.loads(line) for line in (ROOT / "images.jsonl").read_text().splitlines()]
RECIPE = tomllib.loads((ROOT / "images.toml").read_text())["picture"]
GOOD = [row["uri"] for row in ROWS if row["label"] != "bad"]


def _files() -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "images").rglob("*.*"))


def test_the_corpus_is_small_and_listed_whole() -> None:
    """Every file is listed once and every row has its file, a caption, a label and a licence."""
    assert [row["uri"] for row in ROWS] == _files()
    assert 24 <= len(GOOD) <= 40
    assert all(set(row) == {"uri", "caption", "label", "licence"} for row in ROWS)
    assert all(all(row.values()) for row in ROWS)
    assert sum((ROOT / uri).stat().st_size for uri in _files()) <= 4 * 2**20


def test_every_file_has_its_origin_and_licence_written_down() -> None:
    """LICENSES.md and the listing are what the recipe says, and the licences are the free ones."""
    assert (ROOT / "LICENSES.md").read_text() == licences(RECIPE)
    assert (ROOT / "images.jsonl").read_text() == listing(RECIPE)
    assert {row["licence"] for row in ROWS} == {"CC-BY-4.0", "CC0-1.0", "public domain"}
    text = (ROOT / "LICENSES.md").read_text()
    assert all(f"| {uri} |" in text for uri in _files())


def test_formats_modes_and_orientations_are_mixed() -> None:
    """What decoders trip over is all there."""
    formats, modes, orientations, frames, icc = set(), set(), set(), [], []
    for uri in GOOD:
        with Image.open(ROOT / uri) as image:
            image.load()
            formats.add(image.format)
            modes.add(image.mode)
            orientations.add(image.getexif().get(0x0112, 1))
            frames.append(getattr(image, "n_frames", 1))
            icc.append("icc_profile" in image.info)
    assert formats == {"JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000"}
    assert modes >= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"}
    assert orientations == {1, 2, 6}
    assert max(frames) == 4
    assert any(icc)


def test_sizes_are_mixed() -> None:
    """From thumbnails to more than a thousand pixels, upright, wide and square."""
    sizes = []
    for uri in GOOD:
        with Image.open(ROOT / uri) as image:
            sizes.append(image.size)
    shorts = [min(size) for size in sizes]
    assert min(shorts) < 100 < 1000 < max(shorts)
    assert {(w > h) - (w < h) for w, h in sizes} == {-1, 0, 1}
    assert max(w / h for w, h in sizes) > 3


def test_sixteen_bits_are_really_used() -> None:
    """The low byte of the 16-bit picture is not a copy of the high one."""
    with Image.open(ROOT / "images/photos/fig_16bit.png") as image:
        values = image.tobytes()
    assert any(low != high for low, high in zip(values[::2], values[1::2], strict=True))


def test_the_bad_files_are_bad_each_in_its_way() -> None:
    """Empty, no picture at all, cut off, and too large for its bytes."""
    assert {f"images/{path}" for path in BAD} == {r["uri"] for r in ROWS if r["label"] == "bad"}
    decoder, reasons = ImageDecoder(), {}
    for path in BAD:
        data = (ROOT / "images" / path).read_bytes()
        with pytest.raises(AssetError) as caught:
            decoder.decode(AssetRef(path, path, size_bytes=len(data)), io.BytesIO(data))
        reasons[path] = caught.value.reason
    assert reasons == {
        "bad/truncated.jpg": Reason.TRUNCATED,
        "bad/text.jpg": Reason.UNKNOWN_FORMAT,
        "bad/empty.png": Reason.EMPTY,
        "bad/bomb.png": Reason.TOO_MANY_PIXELS,
    }
    assert (ROOT / "images/bad/bomb.png").stat().st_size < 20_000


def test_the_good_files_decode_upright() -> None:
    """Every other file is a picture, and turned ones come out the right way round."""
    decoder = ImageDecoder()
    sizes = {}
    for uri in GOOD:
        data = (ROOT / uri).read_bytes()
        image = decoder.decode(AssetRef(uri, uri, size_bytes=len(data)), io.BytesIO(data)).image
        sizes[uri] = image.size
        assert image.mode == "RGB"
    assert sizes["images/photos/friends_rotated.jpg"] == (480, 721)


def test_a_bomb_is_a_valid_picture(tmp_path: Path) -> None:
    """Only its size is wrong: a small one of the same making decodes."""
    (tmp_path / "small.png").write_bytes(bomb(50))
    with Image.open(tmp_path / "small.png") as image:
        image.load()
        assert (image.size, image.mode, image.getextrema()) == ((50, 50), "1", (0, 0))
