"""The bytes of a glTF 2.0 file: its JSON, its buffers, and accessors as arrays.

By the glTF 2.0 specification (ISO/IEC 12113:2022), sections 3.6 and 4. Buffers in other files are
not fetched. Sparse accessors and normalised integers (``KHR_mesh_quantization``) are read.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.shape_parts import corrupt, truncated, unsupported
from tokenmill_schemas.errors import AssetError, Reason

Array = npt.NDArray[Any]
Json = dict[str, Any]

GLB_MAGIC = b"glTF"
_JSON, _BIN = b"JSON", b"BIN\0"
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TABLES = ("accessors", "bufferViews", "buffers", "meshes", "nodes", "scenes")
#: More values than this are not parsed: a JSON value takes some 100 bytes of memory.
MAX_JSON_VALUES = 10_000_000


@dataclass(frozen=True, slots=True)
class Gltf:
    """A glTF file taken apart: its JSON, and the bytes of each buffer."""

    tree: Json
    buffers: tuple[bytes, ...]

    def items(self, name: str) -> list[Json]:
        """Return a top-level array of `_TABLES`, such as ``meshes``; empty if there is none."""
        found: list[Json] = self.tree.get(name, [])
        return found

    def item(self, name: str, index: Any) -> Json:
        """Return one entry of a top-level array.

        Raises:
            AssetError: ``corrupt``: there is none of that index.
        """
        found = self.items(name)
        if not _is_count(index) or index >= len(found):
            raise corrupt(f"glTF: {name}[{index!r:.40}] does not exist; there are {len(found)}")
        entry: Json = found[index]
        return entry


def parse(data: bytes) -> Gltf:
    """Return a GLB or glTF file taken apart.

    Raises:
        AssetError: ``truncated``, ``corrupt``, ``unsupported`` (version 1, buffers in other files),
            or ``too_many_bytes`` of JSON values.
    """
    text, binary = _glb_chunks(data) if data.startswith(GLB_MAGIC) else (data, None)
    tree = _tree(text)
    asset = tree.get("asset", {})
    version = asset.get("version", "2.0") if isinstance(asset, dict) else ""
    if not str(version).startswith("2."):
        raise unsupported(f"glTF of version {version!r:.40}")
    tables = Gltf(tree, ()).items("buffers")
    return Gltf(tree, tuple(_buffer(b, binary if not i else None) for i, b in enumerate(tables)))


def _glb_chunks(data: bytes) -> tuple[bytes, bytes | None]:
    if len(data) < 20:
        raise truncated(f"GLB of {len(data)} bytes")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise unsupported(f"GLB of version {version}")
    if length > len(data):
        raise truncated(f"GLB claims {length} bytes and has {len(data)}")
    found: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= length:
        size, kind = struct.unpack_from("<I4s", data, position)
        if position == 12 and kind != _JSON:
            raise corrupt(f"GLB starts with a chunk {kind!r} in place of JSON")
        if position + 8 + size > length:
            raise truncated(f"GLB: a chunk of {size} bytes ends behind the file")
        found.setdefault(kind, data[position + 8 : position + 8 + size])
        position += 8 + size
    return found[_JSON], found.get(_BIN)


def _tree(text: bytes) -> Json:
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if values > MAX_JSON_VALUES:
        text_of = f"glTF of about {values} JSON values; the limit is {MAX_JSON_VALUES}"
        raise AssetError(Reason.TOO_MANY_BYTES, text_of)
    try:
        tree = json.loads(text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        ended = not text[error.pos :].strip() or error.msg.startswith("Unterminated")
        raise (truncated if ended else corrupt)(f"glTF: {error}") from error
    except RecursionError as error:
        raise corrupt("glTF: its JSON is nested too deeply") from error
    if not isinstance(tree, dict):
        raise corrupt("glTF: its JSON is no object")
    for name in _TABLES:
        table = tree.get(name, [])
        if not isinstance(table, list) or not all(isinstance(entry, dict) for entry in table):
            raise corrupt(f"glTF: {name} is no array of objects")
    return tree


def _buffer(table: Json, binary: bytes | None) -> bytes:
    """Return a buffer's bytes; none where an extension is to provide them."""
    uri, length = table.get("uri"), _count(table, "byteLength")
    found = binary
    if isinstance(uri, str):
        found = _data_uri(uri)
    if found is None:
        if table.get("extensions"):
            return b""
        raise corrupt("glTF: a buffer has neither bytes nor a uri")
    if length > len(found):
        raise truncated(f"glTF: a buffer claims {length} bytes and has {len(found)}")
    return found


def _data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not head.startswith("data:") or not comma:
        raise unsupported(f"glTF: its buffer {uri[:80]!r} lies in another file")
    if not head.endswith(";base64"):
        raise unsupported(f"glTF: a buffer of the encoding {head[:80]!r}")
    try:
        return base64.b64decode(body)
    except binascii.Error as error:
        raise corrupt(f"glTF: a buffer's base64: {error}") from error


def accessor_count(gltf: Gltf, index: Any) -> int:
    """Return how many elements an accessor claims to have."""
    return _count(gltf.item("accessors", index), "count")


def accessor(gltf: Gltf, index: Any) -> Array:
    """Return an accessor's elements ``[count, width]``: floats as they are, normalised or integer.

    Its count must have passed the budget.

    Raises:
        AssetError: ``truncated`` (it claims more than its buffer), ``corrupt``, or ``unsupported``.
    """
    table = gltf.item("accessors", index)
    kind, width = _TYPES.get(table.get("componentType", 0)), _WIDTHS.get(table.get("type", ""))
    if kind is None or width is None:
        raise corrupt(f"glTF: accessor {index} of an unknown type")
    values = _dense(gltf, table, np.dtype((kind, (width,))))
    if "sparse" in table:
        values = _with_sparse(gltf, table["sparse"], values)
    return _normalised(values) if table.get("normalized") is True else values


def _dense(gltf: Gltf, table: Json, element: np.dtype[Any]) -> Array:
    count = _count(table, "count")
    if "bufferView" not in table:
        if "sparse" not in table:
            raise unsupported("glTF: an accessor without a buffer view, to be filled by extension")
        return np.zeros(count, element)
    return _elements(gltf, table, element, count)


def _elements(gltf: Gltf, table: Json, element: np.dtype[Any], count: int) -> Array:
    """Return ``count`` elements at a buffer view and offset, as ``table`` names them."""
    view = gltf.item("bufferViews", table.get("bufferView"))
    if "EXT_meshopt_compression" in view.get("extensions", {}):
        raise unsupported("glTF with EXT_meshopt_compression")
    index = _count(view, "buffer")
    if index >= len(gltf.buffers):
        raise corrupt(f"glTF: there is no buffer {index}")
    start = _count(view, "byteOffset")
    window = memoryview(gltf.buffers[index])[start : start + _count(view, "byteLength")]
    offset = _count(table, "byteOffset")
    stride = _count(view, "byteStride") or element.itemsize
    if count and offset + (count - 1) * stride + element.itemsize > len(window):
        raise truncated(f"glTF: an accessor of {count} elements ends behind its buffer view")
    if stride < element.itemsize:
        raise corrupt(f"glTF: elements of {element.itemsize} bytes stand {stride} apart")
    if not count:
        return np.zeros(0, element)
    # A strided view of the bytes; the copy is packed and as large as what was just checked.
    base, width = element.subdtype or (element, (1,))
    rows = np.ndarray((count, *width), base, window, offset, (stride, base.itemsize))
    return rows.copy()


def _with_sparse(gltf: Gltf, sparse: Json, values: Array) -> Array:
    count = _count(sparse, "count")
    if count > len(values):
        raise corrupt(f"glTF: a sparse accessor replaces {count} of {len(values)} elements")
    places = sparse["indices"]
    kind = _TYPES.get(places.get("componentType", 0))
    if kind is None:
        raise corrupt("glTF: sparse indices of an unknown type")
    rows = _elements(gltf, places, np.dtype((kind, (1,))), count)[:, 0].astype(np.int64)
    if count and (rows.min() < 0 or rows.max() >= len(values)):
        raise corrupt("glTF: a sparse index is out of range")
    element = np.dtype((values.dtype, values.shape[1:]))
    values[rows] = _elements(gltf, sparse["values"], element, count)
    return values


def _normalised(values: Array) -> Array:
    """Return integers as the fractions that they stand for (section 3.11)."""
    if values.dtype.kind == "f":
        return values
    return np.maximum(values.astype(np.float64) / np.iinfo(values.dtype).max, -1.0)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _count(table: Json, key: str) -> int:
    value = table.get(key, 0)
    if not _is_count(value):
        raise corrupt(f"glTF: {key} is {value!r:.40}")
    return int(value)
