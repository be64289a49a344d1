"""A network of two nodes in ONNX form, written byte by byte: no package for that is needed.

It gives the mean of each frame, less ``zero``, divided by 255; with ``zero`` = 0 that is a
probability, above it is negative on black frames, as logits are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence


def tiny_onnx(shape: Sequence[int], *, kind: int, zero: float = 0.0) -> bytes:
    """Return a model that takes ``shape`` (a batch of frames) of type 1 (float) or 2 (uint8)."""
    nodes = [
        _node("Cast", ["frames"], "real", _attribute("to", 1)),
        _node("ReduceMean", ["real"], "mean", _axes([2, 3, 4]), _attribute("keepdims", 0)),
        _node("Sub", ["mean", "zero"], "above"),
        _node("Div", ["above", "white"], "scores"),
    ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny")
    graph += _field(5, _scalar("zero", zero)) + _field(5, _scalar("white", 255.0))
    graph += _field(11, _value("frames", kind, shape)) + _field(12, _value("scores", 1, shape[:2]))
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 13))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    body = b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode())
    return body + _field(4, kind.encode()) + b"".join(_field(5, a) for a in attributes)


def _attribute(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _number(3, value) + _number(20, 2)


def _axes(axes: list[int]) -> bytes:
    return _field(1, b"axes") + b"".join(_number(8, axis) for axis in axes) + _number(20, 7)


def _scalar(name: str, value: float) -> bytes:
    return _number(2, 1) + _field(8, name.encode()) + _field(9, struct.pack("<f", value))


def _value(name: str, kind: int, shape: Sequence[int]) -> bytes:
    sizes = b"".join(_field(1, _number(1, size)) for size in shape)
    tensor = _number(1, kind) + _field(2, sizes)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
