"""Source ``tars``: WebDataset archives, read member by member through byte ranges.

Members that share a path up to the first dot of its last part belong together, as in
https://github.com/webdataset/webdataset; an actor reads an image's own range and nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from tokenmill.sources.jsonl import TYPES, TypeName, text_of
from tokenmill.sources.opening import failure, open_asset
from tokenmill.sources.places import expand, open_file, printable, size_and_version, stems
from tokenmill.sources.rows import (
    MEDIA_EXTENSIONS,
    ModalityRule,
    Row,
    batch_of,
    chunks,
    modalities_of,
)
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import JobError, Reason

TAIL = "tail="
NO_MEMBER = -1


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: its key, its extension, and where its bytes lie."""

    key: str
    extension: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TarsSource:
    """Media of WebDataset tars; ``urls`` may have braces (``{000..123}``) and globs.

    ``columns`` are companions: ``caption`` is the text of the ``.txt`` member, ``label`` the number
    of the ``.cls`` member, any other name a field of the ``.json`` member, which also stands in
    where those two are missing. ``types`` declares the types of JSON fields (``string`` if not).
    With ``strict`` a broken archive is a JobError; else what can be read of it is listed, and its
    tail as one asset ``STEM/#tail`` that goes to quarantine as truncated.
    """

    urls: tuple[str, ...]
    extensions: tuple[str, ...] = MEDIA_EXTENSIONS
    modality: ModalityRule = "auto"
    columns: tuple[str, ...] = ()
    types: dict[str, TypeName] = field(default_factory=dict)
    strict: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def companions(self) -> pa.Schema:
        """Return ``columns`` in their declared types."""
        types: dict[str, TypeName] = {"label": "int", **self.types}
        return pa.schema([pa.field(n, TYPES[types.get(n, "string")]) for n in self.columns])

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield the assets in the order of the archives and of their members.

        Raises:
            JobError: an archive is missing or compressed, or broken while ``strict``.
        """
        schema = self.companions()
        for chunk in chunks(self._rows()):
            arrays = [
                pa.array([_typed(values.get(c.name), c.type) for _, _, values in chunk], c.type)
                for c in schema
            ]
            modalities = modalities_of((name for _, name, _ in chunk), self.modality)
            rows = [row for row, _, _ in chunk]
            yield batch_of(rows, arrays, modalities=modalities, schema=schema)

    def open(self, ref: AssetRef) -> BinaryIO:
        """Open an asset's bytes.

        Raises:
            AssetError: the archive is gone or unreadable, or ``ref`` is a broken tail.
            TransientError: the storage failed after its retries.
        """
        if ref.locator.startswith(TAIL):
            text = f"the archive is broken from byte {ref.locator.removeprefix(TAIL)} on"
            raise failure(ref, Reason.TRUNCATED, text)
        return open_asset(ref, self.options)

    def _rows(self) -> Iterator[tuple[Row, str, dict[str, Any]]]:
        urls = expand(self.urls, self.options)
        for url, stem in zip(urls, stems(urls), strict=True):
            yield from self._archive(url, stem)

    def _archive(self, url: str, stem: str) -> Iterator[tuple[Row, str, dict[str, Any]]]:
        size, version = size_and_version(url, self.options)
        with open_file(url, self.options) as stream:
            scan = Scan(stream, size)
            for key, group in itertools.groupby(scan.members(), key=lambda m: m.key):
                members = list(group)
                media = _media(members, self.extensions)
                if media is None:
                    continue
                locator = f"bytes={media.start}-{media.stop}"
                row = (f"{stem}/{key}", url, locator, media.stop - media.start, version)
                yield row, f".{media.extension}", scan.companions(members) if self.columns else {}
            if scan.broken_at != NO_MEMBER:
                yield self._tail(url, stem, version, scan), "", {}

    def _tail(self, url: str, stem: str, version: str, scan: Scan) -> Row:
        at = scan.broken_at
        if self.strict or at == 0:
            text = "is not an uncompressed tar" if at == 0 else f"is broken from byte {at} on"
            raise JobError(f"{without_credentials(url)} {text}", path="source.urls")
        return f"{stem}/#tail", url, f"{TAIL}{at}", -1, version


class Scan:
    """One pass over an archive's headers; ``broken_at`` is the offset of what cannot be read."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self.broken_at = NO_MEMBER

    def members(self) -> Iterator[Member]:
        """Yield the regular members whose bytes are all there."""
        try:
            archive = tarfile.open(fileobj=self._stream, mode="r:")  # noqa: SIM115 - owns nothing
        except tarfile.TarError:
            self.broken_at = 0
            return
        while True:
            # tarfile keeps every header it has seen; a large archive would fill the memory.
            archive.members = []  # type: ignore[attr-defined]  # public, but not in typeshed
            at = archive.offset
            try:
                info = archive.next()
            except tarfile.TarError:
                info = None
                self.broken_at = at
            if info is None:
                break
            if info.offset_data + info.size > self._size >= 0:
                self.broken_at = info.offset
                return
            if info.isreg():
                yield _member(info)
        if self.broken_at == NO_MEMBER and not self._ends_well(archive.offset):
            self.broken_at = archive.offset

    def _ends_well(self, at: int) -> bool:
        """Whether a block of zeros or the end of the file is at ``at``; tarfile tells no other."""
        self._stream.seek(at)
        return not self._stream.read(tarfile.BLOCKSIZE).strip(b"\0")

    def companions(self, members: list[Member]) -> dict[str, Any]:
        """Return the values that a group's ``.json``, ``.txt`` and ``.cls`` members hold."""
        found: dict[str, Any] = {}
        position = self._stream.tell()
        for member in members:
            if member.extension == "json":
                with contextlib.suppress(ValueError):
                    value = json.loads(self._bytes(member))
                    found = {**value, **found} if isinstance(value, dict) else found
            elif member.extension == "txt":
                found["caption"] = self._bytes(member).decode("utf-8", "replace")
            elif member.extension == "cls":
                found["label"] = self._bytes(member).decode("ascii", "replace").strip()
        self._stream.seek(position)
        return found

    def _bytes(self, member: Member) -> bytes:
        self._stream.seek(member.start)
        return self._stream.read(member.stop - member.start)


def _member(info: tarfile.TarInfo) -> Member:
    folder, slash, name = printable(info.name.removeprefix("./")).rpartition("/")
    stem, _, extension = name.partition(".")
    start = info.offset_data
    return Member(folder + slash + stem, extension.lower(), start, start + info.size)


def _media(members: list[Member], extensions: tuple[str, ...]) -> Member | None:
    suffixes = tuple(e.lower() for e in extensions)
    return next((m for m in members if f".{m.extension}".endswith(suffixes)), None)


def _typed(value: Any, kind: pa.DataType) -> Any:
    """Return ``value`` as ``kind``, or None where it cannot be read as one."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return text_of(value)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    try:
        return int(value) if pa.types.is_integer(kind) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


PLUGIN = TarsSource
