"""Exports: a version of a store in the forms that other libraries read; one module a format.

    from tokenmill.export import export
    from tokenmill.store import Store

    export(Store.open("store").at("v1"), "webdataset", "s3://bucket/tokens")

An export shows what a feed of the version would: hidden samples are left out. The same version
gives the same bytes. It holds a batch of samples and one file on its way at a time, whatever the
store's size, and nothing is written over: a place that is not empty is refused by all formats but
``delta``, whose tables get another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenmill.export.base import Exported, Exporter, Target
from tokenmill.export.samples import Samples
from tokenmill.plugins import kinds, open_operator
from tokenmill.store.version import Version
from tokenmill_infra.storage import open_storage
from tokenmill_schemas.errors import JobError

__all__ = ["Exported", "Exporter", "Samples", "Target", "export", "formats", "open_exporter"]


def formats() -> list[str]:
    """Return the formats that there are."""
    return kinds(__name__)


def open_exporter(name: str, options: Mapping[str, Any] | None = None) -> Exporter:
    """Return the exporter of a format, or of ``module:Class``.

    Raises:
        JobError: there is no such format, or it has no such option.
    """
    exporter: Exporter = open_operator(__name__, name, options or {}, path="format")
    return exporter


def export(
    version: Version,
    form: str | Exporter,
    to: str,
    *,
    where: str = "",
    groups: Sequence[str] = (),
) -> Exported:
    """Write the samples of a version that may be shown to a folder or URL.

    Args:
        version: What to export.
        form: A format, or an exporter of one with options (`open_exporter`).
        to: An empty or new folder, local or on any fsspec URL.
        where: A filter over companion columns (`tokenmill_schemas.where`); "" is all samples.
        groups: Column groups whose streams and columns are written too; samples without values in
            one of them are left out.

    Raises:
        JobError: the format, the filter or the place is not one that can be used.
        StoreError: the version has no shard.
    """
    exporter = open_exporter(form) if isinstance(form, str) else form
    storage = open_storage(to)
    if not exporter.again and next(iter(storage.list("")), None) is not None:
        raise JobError(f"{storage.uri} is not empty; choose a new folder", path="to")
    samples = Samples.of(version, where, groups)
    target = Target(storage)
    rows = exporter.write(samples, target)
    name = type(exporter).__module__.rpartition(".")[2]
    return Exported(name, storage.uri, version.number, rows, target.files, target.written_bytes)
