"""One unit made of several: its shard, and the files of column groups beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tokenmill.shards.select import stored_layout
from tokenmill.store.compact.grouping import merged_id
from tokenmill.store.groups.files import write_group_file
from tokenmill.store.rewrite import (
    Form,
    Rows,
    Written,
    kept_rows,
    manifest_facts,
    shard_name,
    without,
    write_shard,
)
from tokenmill_infra.storage.storage import Storage

#: The rows of `GROUP_SCHEMA` of a version: by group, by shard.
Sides = Mapping[str, Mapping[str, dict[str, Any]]]
_SUMS = ("assets", "rejected")
_NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Merge:
    """Units to be made one: their rows of the manifest, and what rows go from their shards."""

    members: tuple[dict[str, Any], ...]
    dropped: Mapping[str, Rows]

    @property
    def unit_id(self) -> str:
        """Id of the unit that they become."""
        return merged_id((row["unit_id"], self.gone(row["path"])) for row in self.members)

    @property
    def shards(self) -> list[dict[str, Any]]:
        """Those of the members that have a shard."""
        return [row for row in self.members if row["path"]]

    def gone(self, path: str) -> Rows:
        """Return the rows that go from a shard."""
        return self.dropped.get(path, _NO_ROWS)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge became: a row of the manifest, and by group a row of `GROUP_SCHEMA` if any.

    ``starts`` has the first row of each old shard in the new one.
    """

    merge: Merge
    row: dict[str, Any]
    sides: dict[str, dict[str, Any] | None]
    starts: dict[str, int]

    def place(self, path: str, row: int) -> tuple[str, int] | None:
        """Return where a row of an old shard is now; None if it is gone."""
        gone = self.merge.gone(path)
        at = int(np.searchsorted(gone, row))
        if at < len(gone) and gone[at] == row:
            return None
        return self.row["path"], self.starts[path] + row - at


def write_merge(storage: Storage, merge: Merge, sides: Sides) -> Merged:
    """Write the shard of a merge and the files beside it.

    Raises:
        CorruptShardError: a shard or a file beside one is missing or damaged.
    """
    shards, unit_id = merge.shards, merge.unit_id
    row = {**merge.members[0], "unit_id": unit_id, "plan": "", "row_group": 0}
    row |= {name: sum(member[name] for member in merge.members) for name in _SUMS}
    counts = [shard["samples"] - len(merge.gone(shard["path"])) for shard in shards]
    ends = np.cumsum([0, *counts]).tolist()
    starts = {shard["path"]: start for shard, start in zip(shards, ends, strict=False)}
    if len(shards) == 1 and counts[0] == shards[0]["samples"]:
        # Nothing goes and nothing comes: the shard and all beside it stay the files they are.
        kept = ("path", "sha256", "bytes", "samples", "tokens", "batch_rows", "format")
        row |= {name: shards[0][name] for name in (*kept, "min_key", "max_key", "shapes")}
        path = row["path"]
        held = {group: files[path] for group, files in sides.items() if path in files}
        return Merged(merge, row, dict(held), starts)
    made = Written()
    if ends[-1]:
        form = Form(stored_layout(storage, shards[0]["path"]), *_form(shards[0]))
        made = write_shard(storage, _rows(storage, merge), form, name=shard_name(unit_id))
        row |= {"batch_rows": form.batch_rows, "format": form.format}
    row |= manifest_facts(made)
    beside = {
        group: _write_side(storage, merge, group, files, shard=made.path)
        for group, files in sides.items()
        if made.path
    }
    return Merged(merge, row, beside, starts)


def _rows(storage: Storage, merge: Merge) -> Iterator[pa.RecordBatch]:
    for shard in merge.shards:
        keep = without(shard["samples"], merge.gone(shard["path"]))
        yield from kept_rows(storage, shard["path"], keep)


def _write_side(
    storage: Storage,
    merge: Merge,
    group: str,
    files: Mapping[str, dict[str, Any]],
    *,
    shard: str,
) -> dict[str, Any] | None:
    """Write a group's file beside the new shard; None if it covered none of the old ones."""
    stays = [row for row in merge.shards if len(merge.gone(row["path"])) < row["samples"]]
    sources = [files[row["path"]] for row in stays if row["path"] in files]
    if len(sources) < len(stays):
        return None
    form = Form(stored_layout(storage, sources[0]["path"]), *_form(stays[0]))

    def rows() -> Iterator[pa.RecordBatch]:
        for old, source in zip(stays, sources, strict=True):
            keep = without(old["samples"], merge.gone(old["path"]))
            yield from kept_rows(storage, source["path"], keep)

    return write_group_file(storage, group, shard, rows(), form=form)


def _form(shard: Mapping[str, Any]) -> tuple[str, int]:
    return shard["format"], shard["batch_rows"]
