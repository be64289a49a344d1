"""Makes the stores that must stay readable for ever: ``python make_stores.py NAME STORE``.

Run once for each that is added, with the code of its day; what is checked in is never made again.
Without STORE, makes one with a history of every operation that there is.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenmill.store import Store, Version
from tokenmill.store.compact import compact
from tokenmill.store.groups import add_group, from_store, from_table
from tokenmill.store.takedown import takedown
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.job import ShardsConfig

FOLDER = Path(__file__).with_name("stores")


def contents(version: Version) -> dict[str, Any]:
    """Return what a version shows, in words that any library can compare."""
    streams = [stream.name for stream in version.snapshot.spec.streams]
    shown = {
        row["sample_id"]: {name: row[name] for name in streams}
        for batch in version.scan()
        for row in batch.to_pylist()
    }
    groups = {}
    for group in version.snapshot.groups:
        rows = [row for b in version.scan(groups=(group.name,)) for row in b.to_pylist()]
        names = [*group.columns, *(stream.name for stream in group.spec.streams)]
        groups[group.name] = {row["sample_id"]: {n: row[n] for n in names} for row in rows}
    rejects = version.rejects().select(["asset_key", "disposition", "reason"]).to_pylist()
    return {
        "content_id": version.snapshot.content_id,
        "operation": version.snapshot.operation,
        "totals": version.snapshot.totals,
        "shown": shown,
        "groups": groups,
        "rejects": rejects,
        "missing": version.missing().column("asset_key").to_pylist(),
    }


def described(store: Store) -> dict[str, Any]:
    """Return the contents of every version of every branch, and of every tag."""
    versions = {
        f"{name}:{number}": contents(store.at(f"{name}:{number}"))
        for name in store.branches()
        for number in store.on(name).log.numbers()
    }
    tags = {name: f"{tag.branch}:{tag.number}" for name, tag in store.refs.tags().items()}
    return {"versions": versions, "tags": tags}


def with_a_history(folder: Path, shards: ShardsConfig) -> Store:
    """Make a store with a version of every operation."""
    store = Store.of(str(folder / "store"))
    add_assets(store, dict.fromkeys("abcdef", "1"), rejected="f", shards=shards)
    add_assets(store, {"b": "2", "g": "1"}, shards=shards)
    store.tag("kept")
    add_assets(store, {}, vanished=frozenset("c"), drop_missing=True, shards=shards)
    branch = store.create_branch("trial")
    add_assets(branch, {"x": "1", "y": "1"}, shards=shards)
    store.merge("trial")
    captions = {"sample_id": ["a#0", "b#0", "x#0"], "caption": ["an a", "a b", "an x"]}
    add_group(store, "captions", from_table(pa.table(captions)))
    other = Store.of(str(folder / "other"))
    add_assets(other, dict.fromkeys("abdegxy", "9"), shards=shards)
    add_group(store, "semantic", from_store(other.at(), {"image": "semantic"}))
    compact(store, target_rows=4)
    takedown(store, keys="a")
    store.restore("kept")
    return store


def main() -> None:
    """Write NAME.zip and NAME.json."""
    name, *made = sys.argv[1:]
    shards = ShardsConfig(format="webdataset" if "webdataset" in name else "arrow", unit_assets=4)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(made[0]) if made else with_a_history(Path(folder), shards)
        root = Path(store.uri)
        wanted = json.dumps(described(store), indent=1, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(wanted + "\n")
        with zipfile.ZipFile(FOLDER / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file() and "reports" not in file.parts:
                    archive.write(file, file.relative_to(root))


if __name__ == "__main__":
    main()
