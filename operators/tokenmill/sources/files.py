"""Source ``files``: folders, globs and single files, local or on any fsspec URL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from tokenmill.sources.hashing import content_hash
from tokenmill.sources.opening import open_asset
from tokenmill.sources.places import braces, glob_root, is_glob, local_path, stems
from tokenmill.sources.rows import (
    MEDIA_EXTENSIONS,
    ModalityRule,
    Row,
    batch_of,
    chunks,
    modalities_of,
)
from tokenmill.sources.walk import walk_local, walk_remote
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import JobError


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Every file of the given extensions below ``urls``, hidden ones left out.

    A key is the path below its folder (below a glob's last fixed folder); with several ``urls``
    the folder's name goes before it. ``version`` "mtime" tells changes by size and modification
    time, or by etag on an object store; "sha256" reads every file when listing. ``modality`` "auto"
    goes by the extension, where a GIF is a picture; name one to have every file taken for that.
    """

    urls: tuple[str, ...]
    extensions: tuple[str, ...] = MEDIA_EXTENSIONS
    modality: ModalityRule = "auto"
    version: Literal["mtime", "sha256"] = "mtime"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("urls must name at least one folder, glob or file")

    def companions(self) -> pa.Schema:
        """Return no columns: files carry no companions."""
        return pa.schema([])

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield the listing, sorted bytewise by key.

        Raises:
            JobError: a folder is not there or cannot be read, or a glob matches nothing.
        """
        for rows in chunks(self._rows()):
            modalities = modalities_of((row[0] for row in rows), self.modality)
            yield batch_of(rows, modalities=modalities, schema=self.companions())

    def open(self, ref: AssetRef) -> BinaryIO:
        """Open a file; see `open_asset` for what it raises."""
        return open_asset(ref, self.options)

    def _rows(self) -> Iterator[Row]:
        urls = [one for url in self.urls for one in braces(url)]
        if len(urls) == 1:
            yield from self._below(urls[0], "")
            return
        roots = [glob_root(url) if is_glob(url) else url for url in urls]
        prefixes = (f"{stem}/" for stem in stems(roots))
        for prefix, url in sorted(zip(prefixes, urls, strict=True)):
            yield from self._below(url, prefix)

    def _below(self, url: str, prefix: str) -> Iterator[Row]:
        root = glob_root(url) if is_glob(url) else url
        match = _matcher(url, root)
        path = local_path(root)
        suffixes = tuple(e.lower() for e in self.extensions)
        found = (
            walk_remote(root, self.options, suffixes)
            if path is None
            else walk_local(os.path.abspath(path), suffixes)  # noqa: PTH100 - keeps symlinks
        )
        empty = True
        for key, uri, _, size, version in found:
            if match is None or match.match(key):
                empty = False
                named = self._hash(key, uri, size) if self.version == "sha256" else version
                yield prefix + key, uri, "", size, named
        if empty and match is not None:
            raise JobError(f"{without_credentials(url)} matches no file", path="source.urls")

    def _hash(self, key: str, uri: str, size: int) -> str:
        return content_hash(self, AssetRef(key, uri)) if size >= 0 else ""


def _matcher(url: str, root: str) -> re.Pattern[str] | None:
    if not is_glob(url):
        return None
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(url[len(root) :].lstrip("/")))


PLUGIN = FilesSource
