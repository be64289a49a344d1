"""openclipart: PNG pictures, and captions from the metadata of the SVG files they were drawn from.

All 8,121 names are kept as the package has them, 1,221 of them as relative symbolic links; the
listing has a row for each, whose ``same_as`` names the file that a link leads to ("" for a file).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

#: An SVG is read up to here; the largest of the package has 17 MB.
MAX_SVG_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**16


@dataclass(slots=True)
class Metadata:
    """What an SVG's RDF description says; "" or empty where it is silent."""

    title: str = ""
    description: str = ""
    creator: str = ""
    licence: str = ""
    keywords: list[str] = field(default_factory=list)


def arrange(unpacked: Path, out: Path) -> int:
    """Move the pictures and drawings to ``out`` and list them in ``listing.jsonl``."""
    root = unpacked / "usr/share/openclipart"
    for kind in ("png", "svg"):
        shutil.move(root / kind, out / kind)
    shutil.copy(unpacked / "usr/share/doc/openclipart-png/copyright", out / "copyright")
    rows = 0
    with (out / "listing.jsonl").open("w", encoding="utf-8") as file:
        for row in listing(out):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows += 1
    return rows


def listing(root: Path) -> Iterator[dict[str, str]]:
    """Yield a row per PNG name below ``root/png``, sorted by name."""
    for path in sorted((root / "png").rglob("*.png")):
        relative = path.relative_to(root)
        svg = root / "svg" / relative.relative_to("png").with_suffix(".svg")
        yield {"uri": relative.as_posix(), **_columns(path, svg, root)}


def _columns(path: Path, svg: Path, root: Path) -> dict[str, str]:
    with svg.open("rb") as file:
        said = read_metadata(file)
    target = path.resolve().relative_to(root.resolve()).as_posix() if path.is_symlink() else ""
    keywords = ", ".join(said.keywords)
    return {
        "caption": said.description or said.title or keywords,
        "title": said.title,
        "keywords": keywords,
        "label": path.relative_to(root).parts[1],
        "creator": said.creator,
        "licence": licence_name(said.licence),
        "same_as": target,
    }


def licence_name(said: str) -> str:
    """Return a short name for a licence URL; silence means the package's own: public domain."""
    plain = said.lower().replace(" ", "").replace("-", "")
    if not plain or "publicdomain" in plain:
        return "public domain"
    return "GPL-2.0" if "gpl/2.0" in plain else said


def read_metadata(file: BinaryIO) -> Metadata:
    """Return the metadata of an SVG, read only as far as its ``Work`` element goes.

    No external entity is ever read (expat leaves them out), and expat itself bounds the growth of
    internal ones. From a file that is not well-formed one gets what stood before the fault.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    left = MAX_SVG_BYTES
    try:
        while left > 0 and not reader.done and (data := file.read(_CHUNK_BYTES)):
            parser.Parse(data, False)
            left -= len(data)
    except expat.ExpatError:
        return reader.found
    return reader.found


class _Reader:
    """Collects texts by the path of local element names below ``Work``."""

    def __init__(self) -> None:
        self.found = Metadata()
        self.done = False
        self._path: list[str] = []
        self._text: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition("}")[2]
        self._text.clear()
        if self._path or local == "Work":
            self._path.append(local)
        if self._path == ["Work", "license"]:
            named = [v for k, v in attributes.items() if k.rpartition("}")[2] == "resource"]
            self.found.licence = named[0] if named else ""

    def text(self, data: str) -> None:
        if self._path and not self.done:
            self._text.append(data)

    def end(self, _name: str) -> None:
        if not self._path or self.done:
            return
        path, text = tuple(self._path[1:]), " ".join("".join(self._text).split())
        self._text.clear()
        self._path.pop()
        self.done = not self._path
        self._keep(path, text)

    def _keep(self, path: tuple[str, ...], text: str) -> None:
        if path in {("title",), ("description",)}:
            setattr(self.found, path[0], text)
        elif path == ("creator", "Agent", "title"):
            self.found.creator = text
        elif path == ("subject", "Bag", "li") and text:
            self.found.keywords.append(text)
