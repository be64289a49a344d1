"""For tests of stores: real versions of small assets, made without a job, and what they must show.

The tokens of a sample are a function of its asset's key and version, so that what a version shows
tells which reading of which asset it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.columns import make_batch
from tokenmill.store import Commit, Identity, Store, Version
from tokenmill.store.plans import read_unit, write_plan
from tokenmill.worker.publish import write_shard
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.asset import ASSET_SCHEMA
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.plan import Unit, split, unit_id
from tokenmill_schemas.snapshot import Receipt, Reject, Snapshot
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

#: Four ids of a codebook of 1,000, and the version that they were made of.
LAYOUT = ShardLayout(
    TokenSpec((Stream("image", "index", (Axis("n", 4),), (1000,)),)),
    extras=pa.schema([pa.field("asset.version", pa.string(), nullable=False)]),
)


def identity_of(shards: ShardsConfig | None = None, layout: ShardLayout = LAYOUT) -> Identity:
    """Return what all stores of this module have in common."""
    made_by = {"made_by": "tokenmill.testing.stores"}
    return Identity(layout.spec, made_by, layout, (shards or ShardsConfig()).format)


def ids_of(key: str, version: str, view: int = 0) -> npt.NDArray[np.uint16]:
    """Return the tokens of a view of an asset: uint16[4], below 1,000."""
    seed = hashlib.sha256(f"{key}\n{version}\n{view}".encode()).digest()
    return np.frombuffer(seed[:8], "<u2").astype(np.uint16) % np.uint16(1000)


@dataclass(frozen=True, slots=True)
class How:
    """How assets become samples.

    ``rejected`` keys end in quarantine, every other asset has so many ``views``. ``salt`` sets the
    units of a second try apart from those of the first.
    """

    rejected: Collection[str] = ()
    views: int = 1
    shards: ShardsConfig = field(default_factory=lambda: ShardsConfig(unit_assets=4))
    salt: str = ""


def encode_assets(store: Store, assets: Mapping[str, str], **how: Any) -> Commit:
    """Do all of a run over ``assets`` (key to version) but its commit, and return that.

    Args:
        store: Where plans, shards and receipts go.
        assets: What is listed, in this order; ``shards.unit_assets`` make a unit.
        how: See `How`.
    """
    chosen = How(**how)
    shards = chosen.shards
    identity = identity_of(shards)
    tables = split(_listing(assets).to_batches(), shards.unit_assets)
    layout = identity.layout_digest + chosen.salt
    named = ((unit_id(identity.fingerprint, layout, table), table) for table in tables)
    parts = write_plan(store.storage, named, ASSET_SCHEMA)
    receipts = [_encode(store, unit, chosen) for part in parts for unit in part.units]
    head = store.log.head()
    base = head.number if head else 0
    plans = tuple(part.ref for part in parts)
    return Commit(tuple(receipts), plans, identity, base=base, scope="testing")


def add_assets(store: Store, assets: Mapping[str, str], **how: Any) -> Snapshot:
    """Make ``assets`` the next version of ``store``; see `encode_assets`.

    Keys that are there already are replaced by their new version.
    """
    own = ("vanished", "returned", "drop_missing")
    changes = {name: how.pop(name) for name in own if name in how}
    known = set(shown(store.at())) | set(_rejected(store)) if store.log.head_number() else set()
    commit = encode_assets(store, assets, **how)
    replaced = frozenset(known.intersection(assets))
    return store.commit(replace(commit, replaced=replaced, **changes))


def shown(version: Version) -> dict[str, str]:
    """Return what a version shows: the asset's version by sample id, its tokens checked.

    Raises:
        AssertionError: a sample is shown twice, or its tokens are not those of its asset.
    """
    found: dict[str, str] = {}
    for batch in version.scan():
        for row in batch.to_pylist():
            key, sample = row["asset_key"], row["sample_id"]
            view = int(sample.rpartition("#")[2])
            if sample in found:
                raise AssertionError(f"{sample} is shown twice")
            if list(row["image"]) != ids_of(key, row["asset.version"], view).tolist():
                raise AssertionError(f"{sample} has the tokens of another")
            found[sample] = row["asset.version"]
    return {sample.rpartition("#")[0]: version for sample, version in found.items()}


def _rejected(store: Store) -> Iterable[str]:
    keys: list[str] = store.at().rejects().column("asset_key").to_pylist()
    return keys


def _listing(assets: Mapping[str, str]) -> pa.Table:
    keys = list(assets)
    columns = {
        "key": keys,
        "uri": [f"memory://{key}" for key in keys],
        "locator": [""] * len(keys),
        "modality": ["image"] * len(keys),
        "size_bytes": [-1] * len(keys),
        "version": list(assets.values()),
    }
    return pa.table(columns, schema=ASSET_SCHEMA)


def _encode(store: Store, unit: Unit, how: How) -> Receipt:
    shards, listed = how.shards, read_unit(store.storage, unit).to_pylist()
    good = [row for row in listed if row["key"] not in how.rejected]
    samples = [(row, view) for row in good for view in range(how.views)]
    ids = np.array([ids_of(r["key"], r["version"], v) for r, v in samples], np.uint16)
    columns: dict[str, Any] = {
        "sample_id": [f"{row['key']}#{view}" for row, view in samples],
        "asset_key": [row["key"] for row, _ in samples],
        "asset.version": [row["version"] for row, _ in samples],
    }
    batch = make_batch(LAYOUT, {"image": ids.reshape(-1, 4)}, columns)
    written = write_shard(store, batch, LAYOUT, unit_id=unit.unit_id, config=shards)
    bad = [row for row in listed if row["key"] in how.rejected]
    return store.publish(
        Receipt(
            unit_id=unit.unit_id,
            plan=unit.part,
            row_group=unit.row_group,
            path=written.path,
            format=shards.format,
            samples=len(samples),
            tokens=4 * len(samples),
            bytes=written.bytes,
            sha256=written.sha256,
            assets=len(listed),
            batch_rows=shards.batch_rows,
            rejects=tuple(Reject(r["key"], r["uri"], "corrupt", "decode", "made so") for r in bad),
            min_key=min(row["key"] for row in listed),
            max_key=max(row["key"] for row in listed),
            shapes=written.shapes,
        )
    )
