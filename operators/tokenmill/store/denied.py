"""What takedowns forbid for ever, found in shards that are about to be committed.

A run that was under way when an asset was taken down brings it back unknowingly; its commit hides
it again. Keys are kept as digests, so that what was purged is named nowhere any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store.locate import FOUND_SCHEMA, find
from tokenmill.store.plans import read_unit
from tokenmill.store.takedowns import Takedowns
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.plan import Unit, digests
from tokenmill_schemas.snapshot import Receipt

#: What a listing adds to the key of an asset that it lists once more.
_REPEATED = r"#duplicate-[0-9]+$"


@dataclass(frozen=True, slots=True)
class Denied:
    """Digests (hex) of what may not come back.

    ``assets`` are whole assets, ``samples`` single ones, and ``owners`` all assets of which
    something is denied; "" among them stands for an asset that is not known.
    """

    assets: frozenset[str] = frozenset()
    samples: frozenset[str] = frozenset()
    owners: frozenset[str] = frozenset()

    @classmethod
    def of(cls, storage: Storage, until: int | None = None) -> Denied:
        """Return what a store's takedowns deny, or its first ``until`` records."""
        table = Takedowns(storage).denied(until)
        whole = table.filter(pc.equal(table.column("sample"), "")).column("asset")
        samples = set(table.column("sample").to_pylist()) - {""}
        owners = frozenset(table.column("asset").to_pylist())
        return cls(frozenset(whole.to_pylist()), frozenset(samples), owners)

    def keys(self, column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
        """Return which of a column of keys are of denied assets, or repeat one in a listing."""
        return self._among(column, self.assets)

    def touches(self, column: pa.ChunkedArray | pa.Array) -> bool:
        """Whether anything of an asset among a column of keys is denied."""
        return "" in self.owners or bool(self._among(column, self.owners).any())

    def rows(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which samples are denied, by their ``asset_key`` and ``sample_id``."""
        denied = self.keys(table.column("asset_key"))
        if self.samples:
            ids = hexes(table, "sample_id")
            denied |= np.fromiter((name in self.samples for name in ids), bool, len(ids))
        return denied

    def _among(
        self, column: pa.ChunkedArray | pa.Array, wanted: frozenset[str]
    ) -> npt.NDArray[np.bool_]:
        if not wanted or not len(column):
            return np.zeros(len(column), bool)
        table = pa.table({"key": pc.replace_substring_regex(column, _REPEATED, "")})
        names = hexes(table, "key")
        found = np.fromiter((name in wanted for name in names), bool, len(names))
        repeated = pc.not_equal(column, table.column("key")).to_numpy(zero_copy_only=False)
        if repeated.any():  # one that is merely called so
            names = hexes(pa.table({"key": column}), "key")
            found |= np.fromiter((name in wanted for name in names), bool, len(names))
        return found


def denied_assets(storage: Storage) -> frozenset[bytes]:
    """Return the digests (`tokenmill_schemas.plan.digests`) of assets that may not come back.

    Assets of which single samples were taken down are not among them: they may.
    """
    return frozenset(bytes.fromhex(text) for text in Denied.of(storage).assets)


def allowed(storage: Storage, keys: Iterable[str]) -> frozenset[str]:
    """Return those of ``keys`` that may be tokenized: what a retry of quarantined assets asks."""
    names = pa.array(sorted(set(keys)), pa.string())
    stays = ~Denied.of(storage).keys(names)
    return frozenset(names.filter(pa.array(stays)).to_pylist())


def denied_samples(storage: Storage, receipts: Iterable[Receipt]) -> pa.Table:
    """Return the samples in the shards of ``receipts`` that may not be shown (`FOUND_SCHEMA`)."""
    denied = Denied.of(storage)
    if not denied.owners:
        return FOUND_SCHEMA.empty_table()
    suspects = [r.path for r in receipts if r.path and _has_any(storage, r, denied)]
    return find(
        storage, suspects, ("asset_key", "sample_id"), lambda rows: pa.array(denied.rows(rows))
    )


def _has_any(storage: Storage, receipt: Receipt, denied: Denied) -> bool:
    if not receipt.plan:
        return True
    unit = Unit(receipt.unit_id, receipt.plan, receipt.row_group, receipt.assets)
    return denied.touches(read_unit(storage, unit).column("key"))


def hexes(table: pa.Table, column: str) -> list[str]:
    """Return the digest of each value of a text column, in hex."""
    return [value.hex() for value in digests(table, (column,))]
