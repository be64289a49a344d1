"""Makes the sample corpus in ``pipelines/samples`` from two Debian packages, by its recipe.

Run once by whoever changes the corpus; everybody else uses the files it made::

    apt-get download lomiri-wallpapers-16.04 openclipart-png
    for deb in *.deb; do dpkg -x $deb unpacked; done
    python -m tokenmill_pipelines.samples.make_images --root unpacked --out pipelines/samples

The same versions of Pillow and its codecs write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import struct
import tomllib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

#: For each EXIF orientation, the transposition that takes the upright picture to the stored one.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
CHANGES = ("box", "size", "mode", "orientation", "icc", "options")
BOMB_SIDE = 12_000

BAD = {
    "bad/truncated.jpg": "The first 40 % of photos/stream.jpg (life_by_Aitzol_Berasategi.jpg)",
    "bad/text.jpg": "A line of text that is named like a picture",
    "bad/empty.png": "A file of no bytes",
    "bad/bomb.png": "A PNG of 17 kB that holds 144 million black pixels",
}


def main() -> None:
    """Write the pictures, the bad files, the listing and the list of licences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the unpacked Debian packages")
    parser.add_argument("--out", type=Path, default=Path("pipelines/samples"))
    args = parser.parse_args()
    entries = tomllib.loads((args.out / "images.toml").read_text(encoding="utf-8"))["picture"]
    for entry in entries:
        make_picture(entry, args.root, args.out / "images" / entry["path"])
    make_bad(args.out / "images")
    (args.out / "images.jsonl").write_text(listing(entries), encoding="utf-8")
    (args.out / "LICENSES.md").write_text(licences(entries), encoding="utf-8")


def make_picture(entry: dict[str, Any], root: Path, path: Path) -> None:
    """Write the picture that one entry of the recipe describes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = dict(entry.get("options", {}))
    unchanged = not any(key in entry for key in CHANGES)
    if unchanged:
        path.write_bytes((root / entry["originals"][0]).read_bytes())
        return
    first, *rest = (_frame(Image.open(root / name), entry) for name in entry["originals"])
    if rest:
        options |= {"save_all": True, "append_images": rest}
    if entry.get("icc"):
        options["icc_profile"] = srgb_profile()
    if orientation := entry.get("orientation"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    first.save(path, **options)


def _frame(image: Image.Image, entry: dict[str, Any]) -> Image.Image:
    if "box" in entry:
        image = image.crop(tuple(entry["box"]))
    size = tuple(entry.get("size", image.size))
    mode = entry.get("mode", image.mode)
    if mode == "I;16":
        return _deep_gray(image, size)
    if image.mode == "P" and size != image.size:
        image = image.convert("RGBA")
    image = image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image
    image = _as_mode(image, mode)
    return image.transpose(STORED[entry["orientation"]]) if "orientation" in entry else image


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == image.mode:
        return image
    if mode == "P":
        return image.convert("RGBA").quantize(64, method=Image.Quantize.FASTOCTREE)
    if image.mode in {"RGBA", "LA", "P"}:
        over = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(over, image.convert("RGBA")).convert("RGB")
    return image.convert(mode)


def _deep_gray(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Luma (ITU-R BT.601) of a resized picture at 16 bits; the low byte is real picture too."""
    channels = [np.asarray(c.convert("F").resize(size)) for c in image.convert("RGB").split()]
    luma = 0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2]
    return Image.fromarray(np.clip(np.rint(luma * 257.0), 0, 65535).astype(np.uint16))


def srgb_profile() -> bytes:
    """Return an sRGB profile whose creation date (bytes 24 to 35, ICC.1) is set to nothing."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)


def make_bad(images: Path) -> None:
    """Write the files that must end in quarantine, each for another reason."""
    (images / "bad").mkdir(parents=True, exist_ok=True)
    whole = (images / "photos/stream.jpg").read_bytes()
    (images / "bad/truncated.jpg").write_bytes(whole[: len(whole) * 2 // 5])
    (images / "bad/text.jpg").write_text("This is not a picture, whatever its name says.\n")
    (images / "bad/empty.png").write_bytes(b"")
    (images / "bad/bomb.png").write_bytes(bomb(BOMB_SIDE))


def bomb(side: int) -> bytes:
    """Return a valid PNG of ``side`` x ``side`` black one-bit pixels: small on disk only."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def listing(entries: list[dict[str, Any]]) -> str:
    """Return the JSONL listing: uri (relative to it), caption, label and licence per file."""
    rows = [(e["path"], e["caption"], e["label"], e["licence"]) for e in entries]
    rows += [(path, text, "bad", _bad_licence(path)) for path, text in BAD.items()]
    keys = ("uri", "caption", "label", "licence")
    records = [
        dict(zip(keys, (f"images/{path}", *rest), strict=True)) for path, *rest in sorted(rows)
    ]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _bad_licence(path: str) -> str:
    return "CC-BY-4.0" if path == "bad/truncated.jpg" else "CC0-1.0"


PREFACE = """# Licences of the sample corpus

## Clips and objects

The licence of each file stands in `videos.jsonl` and `shapes.jsonl`. The clips are cut by
`videos.toml` from one clip of the PyPI package `iscc-samples` 0.6.0 of the ISCC Foundation
(CC-BY-4.0); some were encoded anew, as the recipe says. The objects are made by `shapes.toml` from
`pybullet_data` of the PyPI package `pybullet` 3.2.7 by Erwin Coumans and others (zlib licence;
changed ones are those with a `form`). What lies in `hard` and `bad` was written for tokenmill
(CC0-1.0) but for halves and parts of the files above, which keep their licence.

## Pictures

The pictures come from two Debian packages: `lomiri-wallpapers-16.04` 20.04.0-2 (photographs;
authors and licences from its copyright file) and `openclipart-png` 1:0.18+dfsg-19 (drawings;
authors and public-domain dedications from the RDF metadata of the SVG files of the same names in
`openclipart-svg`). The captions and labels were written for tokenmill and are CC0-1.0.

Licence texts: [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/),
[CC0-1.0](https://creativecommons.org/publicdomain/zero/1.0/).

Made by `python -m tokenmill_pipelines.samples.make_images` from `images.toml`.

| file | author | licence | package: original | changes |
|---|---|---|---|---|
"""


def licences(entries: list[dict[str, Any]]) -> str:
    """Return LICENSES.md: author, licence, origin and changes of every file."""
    lines = [
        f"| images/{e['path']} | {e['author']} | {e['licence']} "
        f"| {e['package']}: {_originals(e)} "
        f"| {_changes(e)} |"
        for e in sorted(entries, key=lambda e: str(e["path"]))
    ]
    for path, text in sorted(BAD.items()):
        author = "Aitzol Berasategi" if path == "bad/truncated.jpg" else "tokenmill"
        lines.append(
            f"| images/{path} | {author} | {_bad_licence(path)} | made by script | {text} |"
        )
    return PREFACE + "\n".join(lines) + "\n"


def _originals(entry: dict[str, Any]) -> str:
    return ", ".join(name.removeprefix("usr/share/") for name in entry["originals"])


def _changes(entry: dict[str, Any]) -> str:
    said = {
        "box": "cropped",
        "size": f"resized to {'x'.join(map(str, entry.get('size', ())))}",
        "mode": f"mode {entry.get('mode')}",
        "orientation": f"stored turned, EXIF orientation {entry.get('orientation')}",
        "icc": "sRGB profile added",
    }
    changes = [text for key, text in said.items() if key in entry]
    if len(entry["originals"]) > 1:
        changes.append("frames joined")
    same = Path(entry["path"]).suffix == Path(entry["originals"][0]).suffix
    if not same:
        changes.append(f"converted to {Path(entry['path']).suffix[1:]}")
    elif changes:
        changes.append("recompressed")
    return ", ".join(changes) or "none"


if __name__ == "__main__":
    main()
