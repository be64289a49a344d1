"""The rows of a PLY file, by element and property, out of bytes or of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.ply_header import Element, Header, Property
from tokenmill.decoders.shape_parts import corrupt, numbers, truncated

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class List:
    """A list property: the length of each row's list ``int64[N]``, and all values in a row."""

    sizes: npt.NDArray[np.int64]
    values: Array


#: The columns of one element.
Rows = dict[str, Any]


def binary_rows(data: bytes, header: Header) -> dict[str, Rows]:
    """Return the columns of all elements of a binary file.

    Raises:
        AssetError: ``truncated`` or ``corrupt``.
    """
    found: dict[str, Rows] = {}
    position = header.body
    for element in header.elements:
        found[element.name], position = _binary_element(data, element, header.order, position)
    return found


def _binary_element(data: bytes, element: Element, order: str, position: int) -> tuple[Rows, int]:
    if not element.properties or not element.count:
        return _no_rows(element), position
    if element.is_flat:
        return _packed(data, element, element.row(order), position)
    row = _uniform_row(data, element, order, position)
    if row is not None and position + element.count * row.itemsize <= len(data):
        columns, end = _packed(data, element, row, position)
        lists = [p for p in element.properties if p.counted]
        # The first row's lengths hold for all rows in nearly every file.
        if all((columns["#" + p.name] == columns["#" + p.name][0]).all() for p in lists):
            return {p.name: _column_of(columns, p) for p in element.properties}, end
    return _scanned(data, element, order, position)


def _no_rows(element: Element) -> Rows:
    none = np.zeros(0, np.int64)
    return {
        p.name: List(none, none) if p.counted else none.astype(p.kind) for p in element.properties
    }


def _packed(
    data: bytes, element: Element, row: np.dtype[np.void], position: int
) -> tuple[Rows, int]:
    end = position + element.count * row.itemsize
    if end > len(data):
        raise truncated(f"PLY of {len(data)} bytes ends in its {element.name} rows")
    table = np.frombuffer(data, row, element.count, position)
    return {name: table[name] for name in row.names or ()}, end


def _uniform_row(
    data: bytes, element: Element, order: str, position: int
) -> np.dtype[np.void] | None:
    """Return the record that the first row is of; None if it is not whole."""
    fields: list[Any] = []
    for each in element.properties:
        if each.counted:
            fields.append(("#" + each.name, order + each.counted))
            size = _length(data, each, order, position)
            if size is None:
                return None
            fields.append((each.name, order + each.kind, (size,)))
        else:
            fields.append((each.name, order + each.kind))
        position += np.dtype([fields[-1]]).itemsize
        position += np.dtype(each.counted).itemsize if each.counted else 0
    return np.dtype(fields)


def _length(data: bytes, each: Property, order: str, position: int) -> int | None:
    """Return the length of the list at ``position``, or None if it does not fit into the file."""
    counted = np.dtype(order + each.counted)
    if position + counted.itemsize > len(data):
        return None
    size = int(np.frombuffer(data, counted, 1, position)[0])
    needed = position + counted.itemsize + size * np.dtype(each.kind).itemsize
    return size if size >= 0 and needed <= len(data) else None


def _column_of(columns: Rows, each: Property) -> Any:
    values = columns[each.name]
    if not each.counted:
        return values
    return List(columns["#" + each.name].astype(np.int64), values.reshape(-1))


def _scanned(data: bytes, element: Element, order: str, position: int) -> tuple[Rows, int]:
    """Read rows whose lists vary in length: first where everything lies, then the values."""
    starts: list[list[int]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    byte_order = "little" if order == "<" else "big"
    layout = [_widths(p) for p in element.properties]
    end = len(data)
    for _ in range(element.count):
        for column, (counted, signed, width) in enumerate(layout):
            size = 1
            if counted:
                part = data[position : position + counted]
                size = int.from_bytes(part, byte_order, signed=signed)  # type: ignore[arg-type]
                position += counted
            if size < 0:
                raise corrupt(f"PLY: a list of {size} values in its {element.name} rows")
            starts[column].append(position)
            sizes[column].append(size)
            position += size * width
        if position > end:
            raise truncated(f"PLY of {len(data)} bytes ends in its {element.name} rows")
    columns = zip(element.properties, starts, sizes, strict=True)
    return {p.name: _gathered(data, p, order, (s, n)) for p, s, n in columns}, position


def _widths(each: Property) -> tuple[int, bool, int]:
    counted = np.dtype(each.counted).itemsize if each.counted else 0
    return counted, each.counted.startswith("i"), np.dtype(each.kind).itemsize


def _gathered(data: bytes, each: Property, order: str, spans: tuple[list[int], list[int]]) -> Any:
    width = np.dtype(each.kind).itemsize
    parts = [data[at : at + size * width] for at, size in zip(*spans, strict=True)]
    values = np.frombuffer(b"".join(parts), order + each.kind)
    return List(np.array(spans[1], np.int64), values) if each.counted else values


def text_rows(data: bytes, header: Header) -> dict[str, Rows]:
    """Return the columns of all elements of a text file, in the types that its header gives them.

    Raises:
        AssetError: ``truncated`` or ``corrupt``.
    """
    values = numbers(data[header.body :], float, "PLY", is_file=True)
    found: dict[str, Rows] = {}
    position = 0
    for element in header.elements:
        found[element.name], position = _text_element(values, element, position)
    return found


def _text_element(values: Array, element: Element, position: int) -> tuple[Rows, int]:
    if not element.properties or not element.count:
        return _no_rows(element), position
    width = _uniform_width(values, element, position)
    end = position + element.count * width
    if width and end <= len(values):
        table = values[position:end].reshape(element.count, width)
        columns = dict(_text_columns(table, element))
        if columns:
            return columns, end
    if element.is_flat:
        raise truncated(f"PLY ends in its {element.name} rows")
    return _walked(values, element, position)


def _uniform_width(values: Array, element: Element, position: int) -> int:
    """Return how many numbers the first row has, or 0 if it is not whole."""
    start = position
    for each in element.properties:
        if position >= len(values):
            return 0
        position += _text_length(values[position], element) + 1 if each.counted else 1
    return position - start


def _text_length(value: float, element: Element) -> int:
    if not (0 <= value <= 2**32 and value == int(value)):
        raise corrupt(f"PLY: a list of {value} values in its {element.name} rows")
    return int(value)


def _text_columns(table: Array, element: Element) -> Iterator[tuple[str, Any]]:
    """Yield the columns of rows that are all as long as the first one; nothing if they are not."""
    spans: list[tuple[Property, int, int]] = []
    column = 0
    for each in element.properties:
        size = int(table[0, column]) if each.counted else 1
        if each.counted and (table[:, column] != size).any():
            return
        column += bool(each.counted)
        spans.append((each, column, size))
        column += size
    for each, start, size in spans:
        values = _typed(table[:, start : start + size].reshape(-1), each)
        sizes = np.full(len(table), size, np.int64)
        yield each.name, List(sizes, values) if each.counted else values


def _walked(values: Array, element: Element, position: int) -> tuple[Rows, int]:
    spans: list[list[tuple[int, int]]] = [[] for _ in element.properties]
    for _ in range(element.count):
        for column, each in enumerate(element.properties):
            size = 1
            if each.counted:
                if position >= len(values):
                    raise truncated(f"PLY ends in its {element.name} rows")
                size = _text_length(values[position], element)
                position += 1
            spans[column].append((position, size))
            position += size
        if position > len(values):
            raise truncated(f"PLY ends in its {element.name} rows")
    found: Rows = {}
    for each, places in zip(element.properties, spans, strict=True):
        parts = _typed(np.concatenate([values[at : at + size] for at, size in places]), each)
        sizes = np.array([size for _, size in places], np.int64)
        found[each.name] = List(sizes, parts) if each.counted else parts
    return found, position


def _typed(values: Array, each: Property) -> Array:
    """Return text's numbers in the property's own type, as the binary form would hold them."""
    kind = np.dtype(each.kind)
    if kind.kind == "f":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused later
            return values.astype(kind)
    limits = np.iinfo(kind)
    whole = np.floor(values) == values
    if not (whole & (values >= limits.min) & (values <= limits.max)).all():
        raise corrupt(f"PLY: a value of {each.name!r} is no {kind.name}")
    return values.astype(kind)
