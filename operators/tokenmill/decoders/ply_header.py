"""The header of a PLY file: what it claims, and how many bytes that needs at least.

Format: Greg Turk, "The PLY Polygon File Format" (1994): text, or binary of either byte order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.decoders.shape_parts import corrupt, truncated, unsupported

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 2**20
_MAX_DIGITS = 30
_END = b"end_header"


@dataclass(frozen=True, slots=True)
class Property:
    """One value of each row, or with ``counted`` (the type of its length) a list of values."""

    name: str
    kind: str
    counted: str = ""


@dataclass(frozen=True, slots=True)
class Element:
    """``count`` rows of the same properties."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def is_flat(self) -> bool:
        """Whether no property is a list."""
        return not any(each.counted for each in self.properties)

    def row(self, order: str) -> np.dtype[np.void]:
        """Return the packed record of a flat row; ``order`` is ``<`` or ``>``."""
        return np.dtype([(p.name, order + p.kind) for p in self.properties])

    def least_bytes(self, *, text: bool) -> int:
        """Return what ``count`` rows need at least, with all lists empty."""
        if text:
            # A digit and a blank or line feed; a row without properties may be an empty line.
            return self.count * max(1, 2 * len(self.properties))
        return self.count * sum(np.dtype(p.counted or p.kind).itemsize for p in self.properties)


@dataclass(frozen=True, slots=True)
class Header:
    """``order`` is ``<`` or ``>`` of a binary file, "" of text; rows start at byte ``body``."""

    order: str
    elements: tuple[Element, ...]
    body: int

    def element(self, name: str) -> Element:
        """Return the element of that name, or one without rows and properties."""
        return next((e for e in self.elements if e.name == name), Element(name, 0, ()))


def read_header(data: bytes) -> Header:
    """Return the header of a PLY file.

    Raises:
        AssetError: ``truncated``, ``corrupt`` or ``unsupported``.
    """
    lines, body = _header_lines(data)
    order: str | None = None
    elements: list[tuple[str, int, list[Property]]] = []
    for words in lines:
        if words[0] == "format" and len(words) > 1:
            order = _order(words[1])
        elif words[0] == "element" and len(words) == 3:
            elements.append((words[1], _count(words[2]), []))
        elif words[0] == "property" and elements:
            elements[-1][2].append(_property(words))
        elif words[0] not in ("comment", "obj_info"):
            raise corrupt(f"PLY: header line {' '.join(words)[:60]!r}")
    if order is None:
        raise corrupt("PLY without a format line")
    found = tuple(Element(name, count, tuple(rows)) for name, count, rows in elements)
    return Header(order, _distinct(found), body)


def _header_lines(data: bytes) -> tuple[list[list[str]], int]:
    """Return the words of the header's lines but the first and the last, and where rows start."""
    stop = data.find(b"\n" + _END, 0, _MAX_HEADER_BYTES)
    if stop < 0:
        stop = data.find(b"\r" + _END, 0, _MAX_HEADER_BYTES)
    if stop < 0 or len(data) == stop + 1 + len(_END):
        whole = len(data) > _MAX_HEADER_BYTES
        raise corrupt("PLY: no end_header in a megabyte") if whole else truncated("PLY header")
    body = stop + 1 + len(_END)
    lone_return = data[body : body + 1] == b"\r" and data[3:5] != b"\r\n"
    newline = body if lone_return else data.find(b"\n", body, body + 64)
    if newline < 0:
        raise corrupt("PLY: end_header does not end its line")
    text = data[:stop].decode("latin-1")
    return [line.split() for line in text.splitlines()[1:] if line.strip()], newline + 1


def _order(word: str) -> str:
    if word not in _ORDERS:
        raise unsupported(f"PLY of the format {word!r}")
    return _ORDERS[word]


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS):
        raise corrupt(f"PLY: an element's count is {word[:40]!r}")
    return int(word)


def _property(words: list[str]) -> Property:
    if len(words) == 3 and words[1] in TYPES:
        return Property(words[2], TYPES[words[1]])
    is_list = len(words) == 5 and words[1] == "list"
    if is_list and words[2] in TYPES and words[3] in TYPES and TYPES[words[2]][0] != "f":
        return Property(words[4], TYPES[words[3]], TYPES[words[2]])
    raise corrupt(f"PLY: property line {' '.join(words)[:60]!r}")


def _distinct(elements: tuple[Element, ...]) -> tuple[Element, ...]:
    for names in ([e.name for e in elements], *([p.name for p in e.properties] for e in elements)):
        if len(set(names)) != len(names):
            raise corrupt(f"PLY: a name stands twice among {', '.join(names)[:80]}")
    return elements
