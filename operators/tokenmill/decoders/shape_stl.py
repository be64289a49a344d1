"""STL, binary and text: triangles that share no vertices; nothing is merged here.

The layout is that of 3D Systems' StereoLithography Interface Specification (1988). Colours in the
attribute bytes and facet normals are passed over: the corners' order says the same.
"""

from __future__ import annotations

import re

import numpy as np

from tokenmill.decoders.shape_parts import (
    Budget,
    Geometry,
    Points,
    corrupt,
    numbers,
    truncated,
)
from tokenmill.decoders.shape_text import with_newlines

HEADER_BYTES = 84
FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(rb"^[ \t]*vertex[ \t]+([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
_FACET = re.compile(rb"^[ \t]*facet\b", re.MULTILINE | re.IGNORECASE)
_END = re.compile(rb"^[ \t]*endsolid\b", re.MULTILINE | re.IGNORECASE)


def claimed_facets(data: bytes) -> int:
    """Return the count in a binary file's header."""
    return int.from_bytes(data[80:HEADER_BYTES], "little")


def is_binary(data: bytes) -> bool:
    """Whether a file's length is exactly what a binary header's count explains."""
    explained = HEADER_BYTES + claimed_facets(data) * FACET.itemsize
    return len(data) >= HEADER_BYTES and len(data) == explained


def starts_as_text(data: bytes) -> bool:
    """Whether a file starts with ``solid`` and has no bytes that no text has.

    Many a binary header says ``solid`` too.
    """
    return data[:256].lstrip()[:5].lower() == b"solid" and b"\0" not in data[:4096]


def read_stl(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh of an STL file of either kind; see `read_binary` and `read_text`."""
    if starts_as_text(data) and not is_binary(data):
        return read_text(data, budget)
    return read_binary(data, budget)


def read_binary(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh of a binary STL; bytes behind the claimed facets are passed over.

    Raises:
        AssetError: ``truncated``, or a limit.
    """
    if len(data) < HEADER_BYTES:
        raise truncated(f"STL of {len(data)} bytes; its header alone has {HEADER_BYTES}")
    count = budget.faces(claimed_facets(data), "STL header")
    if HEADER_BYTES + count * FACET.itemsize > len(data):
        raise truncated(f"STL of {len(data)} bytes claims {count} faces")
    facets = np.frombuffer(data, FACET, count, HEADER_BYTES)
    return _soup(facets["corners"].reshape(-1, 3).astype(np.float64), budget)


def read_text(data: bytes, budget: Budget) -> Geometry:
    """Return the mesh of a text STL, all its solids in order.

    Raises:
        AssetError: ``truncated`` (no ``endsolid``), ``corrupt``, or a limit.
    """
    text = with_newlines(data)
    budget.faces(sum(1 for _ in _FACET.finditer(text)), "STL")
    corners = [match.group(1) for match in _VERTEX.finditer(text)]
    if not _END.search(text[-4096:]):
        raise truncated(f"STL of {len(corners)} corners without endsolid")
    values = numbers(b" ".join(corners), float, "STL vertex")
    if len(values) != 3 * len(corners) or len(corners) % 3:
        raise corrupt(f"STL: {len(values)} numbers of {len(corners)} corners are no triangles")
    return _soup(values.reshape(-1, 3), budget)


def _soup(corners: Points, budget: Budget) -> Geometry:
    count = budget.faces(len(corners) // 3, "STL")
    budget.points(len(corners), "STL")
    return Geometry(corners, np.arange(3 * count, dtype=np.int64).reshape(-1, 3))
