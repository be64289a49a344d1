"""What takedowns forbid for ever, found in shards that are about to be committed.

A run that was under way when an asset was taken down brings it back unknowingly; its commit hides
it again. Keys are kept as digests, so that what was purged is named nowhere any more.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store.locate import FOUND_SCHEMA, find
from tokenmill.store.plans import read_unit
from tokenmill.store.takedowns import Takedowns
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.plan import Unit, digests
from tokenmill_schemas.snapshot import Receipt


def denied_assets(storage: Storage) -> frozenset[bytes]:
    """Return the digests (`tokenmill_schemas.plan.digests`) of assets that may not come back.

    Assets of which single samples were taken down are not among them: they may.
    """
    table = Takedowns(storage).denied()
    whole = table.filter(pc.equal(table.column("sample"), "")).column("asset")
    return frozenset(bytes.fromhex(text) for text in whole.to_pylist())


def denied_samples(storage: Storage, receipts: Iterable[Receipt]) -> pa.Table:
    """Return the samples in the shards of ``receipts`` that may not be shown (`FOUND_SCHEMA`)."""
    table = Takedowns(storage).denied()
    if not table.num_rows:
        return FOUND_SCHEMA.empty_table()
    assets = set(table.column("asset").to_pylist())
    whole = set(table.filter(pc.equal(table.column("sample"), "")).column("asset").to_pylist())
    samples = set(table.column("sample").to_pylist()) - {""}

    def mask(rows: pa.Table) -> pa.Array:
        keys, ids = hexes(rows, "asset_key"), hexes(rows, "sample_id")
        return pa.array([k in whole or i in samples for k, i in zip(keys, ids, strict=True)])

    suspects = [r.path for r in receipts if r.path and _has_any(storage, r, assets)]
    return find(storage, suspects, ("asset_key", "sample_id"), mask)


def _has_any(storage: Storage, receipt: Receipt, assets: set[str]) -> bool:
    if not receipt.plan:
        return True
    unit = Unit(receipt.unit_id, receipt.plan, receipt.row_group, receipt.assets)
    return not assets.isdisjoint(hexes(read_unit(storage, unit), "key"))


def hexes(table: pa.Table, column: str) -> list[str]:
    """Return the digest of each value of a text column, in hex."""
    return [value.hex() for value in digests(table, (column,))]
