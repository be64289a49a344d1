"""Source ``jsonl``: listings with one JSON object per line, plain or compressed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from tokenmill.sources.opening import open_asset
from tokenmill.sources.places import expand, open_file, size_and_version, stems
from tokenmill.sources.rows import ModalityRule, batch_of, chunks, modalities_of
from tokenmill.sources.tables import Names, folder_of, rows_of
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError

TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
TypeName = Literal["string", "int", "float", "bool"]


@dataclass(frozen=True, slots=True)
class JsonlSource:
    """Assets named by the field ``uri`` of each line of the files ``urls``.

    ``columns`` are carried into the store. Their types are those that ``types`` declares, and else
    inferred from all lines: whole and broken numbers together are ``float``, lists and objects are
    kept as JSON text, a field that is always null is ``string``. ``modality`` "auto" goes by the
    extension of the uri.
    """

    urls: tuple[str, ...]
    uri: str = "uri"
    key: str = ""
    size: str = ""
    version: str = ""
    columns: tuple[str, ...] = ()
    types: dict[str, TypeName] = field(default_factory=dict)
    base: str = ""
    modality: ModalityRule = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def companions(self) -> pa.Schema:
        """Return the types of ``columns``, after reading all lines if any type is inferred.

        Raises:
            JobError: a column mixes types, or a line is not a JSON object.
        """
        types = dict(self.types)
        unknown = tuple(name for name in self.columns if name not in types)
        if unknown:
            files = expand(self.urls, self.options)
            stamps = tuple((url, size_and_version(url, self.options)[1]) for url in files)
            types |= _inferred(stamps, unknown, canonical_json(self.options))
        return pa.schema([pa.field(name, TYPES[types[name]]) for name in self.columns])

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield the listing in the order of its lines.

        Raises:
            JobError: a file is missing, a line is not a JSON object, or a value has another type.
        """
        schema = self.companions()
        names = Names(self.uri, self.key, self.size, self.version)
        files = expand(self.urls, self.options)
        for url, stem in zip(files, stems(files), strict=True):
            base = self.base or folder_of(url)
            for chunk in chunks(_lines(url, self.options)):
                keys = [f"{stem}#{number}" for number, _ in chunk]
                values = [value for _, value in chunk]
                rows = rows_of(values, names, base=base, default_keys=keys)
                arrays = [_array(url, chunk, column) for column in schema]
                modalities = modalities_of((row[1] for row in rows), self.modality)
                yield batch_of(rows, arrays, modalities=modalities, schema=schema)

    def open(self, ref: AssetRef) -> BinaryIO:
        """Open the file that a line named; see `open_asset` for what it raises."""
        return open_asset(ref, self.options)


def _lines(url: str, options: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers (from 1) and objects; empty lines are skipped."""
    with open_file(url, options, compression="infer") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _object(url, number, line)


def _object(url: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        text = f"{without_credentials(url)} line {number} is not JSON: {error}"
        raise JobError(text, path="source.urls") from error
    if not isinstance(value, dict):
        text = f"{without_credentials(url)} line {number} is not a JSON object"
        raise JobError(text, path="source.urls")
    return value


@functools.lru_cache(maxsize=16)
def _inferred(
    stamps: tuple[tuple[str, str], ...], names: tuple[str, ...], options: bytes
) -> dict[str, TypeName]:
    """Return the types of ``names`` over all lines; the files' versions are in the cache's key."""
    types: dict[str, TypeName] = {}
    for url, _ in stamps:
        for number, value in _lines(url, json.loads(options)):
            for name in names:
                if value.get(name) is not None:
                    kind = _wider(types.get(name), _kind(value[name]))
                    if kind is None:
                        text = f"{without_credentials(url)} line {number}: {name!r} mixes types"
                        raise JobError(f"{text}; declare one", path=f"source.types.{name}")
                    types[name] = kind
    return {name: types.get(name, "string") for name in names}


def _kind(value: Any) -> TypeName:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else "string"


def _wider(known: TypeName | None, new: TypeName) -> TypeName | None:
    if known is None or known == new:
        return new
    return "float" if {known, new} == {"int", "float"} else None


def text_of(value: Any) -> str | None:
    """Return a value as text: a string as it is, anything else but null as canonical JSON."""
    return value if value is None or isinstance(value, str) else canonical_json(value).decode()


def _array(url: str, chunk: list[tuple[int, dict[str, Any]]], column: pa.Field) -> pa.Array:
    values = [value.get(column.name) for _, value in chunk]
    try:
        if pa.types.is_string(column.type):
            return pa.array(map(text_of, values), column.type)
        if pa.types.is_floating(column.type):
            values = [float(v) if isinstance(v, int) else v for v in values]
        return pa.array(values, column.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        lines = f"lines {chunk[0][0]} to {chunk[-1][0]}"
        text = f"{without_credentials(url)} {lines}: {error}"
        raise JobError(text, path=f"source.types.{column.name}") from error


PLUGIN = JsonlSource
