"""What there is to see in a local store, as JSON, and what must be equal in two of them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import Snapshot

State = dict[str, Any]

#: Files that every run writes anew, or that say when and by whom; the other ones are compared.
PERSONAL = ("_running", "reports")
#: Keys of records that say when and by whom.
PERSONAL_KEYS = {
    *("commit_id", "parent", "created_at", "previous", "seconds", "job", "message"),
    *("due_at", "removed_at", "receipt"),
}
#: Receipts of purges, which are named by a hash that covers when they were made.
DATED = re.compile(r"(_takedowns/.*)[0-9a-f]{64}\.json")


def state_of(root: Path) -> State:
    """Return all that readers see of a store, and all files that it consists of."""
    store = Store.of(str(root))
    versions, problems = _versions(store)
    return {
        "versions": versions,
        "tags": store.tags(),
        "problems": problems,
        "content": content_of(root),
        "records": _records(root),
        "hidden": sorted(str(path.relative_to(root)) for path in root.rglob(".*")),
    }


def _versions(store: Store) -> tuple[dict[str, Any], list[str]]:
    """Every version that can be read, as ``branch:number``, and what `verify` says of the heads."""
    versions: dict[str, Any] = {}
    problems: list[str] = []
    for name, head in store.branches().items():
        on = store.on(name) if name != store.branch else store
        for snapshot in on.snapshots():
            versions[f"{name}:{snapshot.number}"] = _version(on, snapshot)
        problems += verify_store(on, head).problems
    return versions, problems


def _version(store: Store, snapshot: Snapshot) -> dict[str, Any]:
    try:
        batches = store.at(snapshot.number).scan(["sample_id"])
        samples = [name for batch in batches for name in batch.column("sample_id").to_pylist()]
    except StoreError as error:
        samples = [f"cannot be read: {error}"]
    return {
        "operation": snapshot.operation,
        "content_id": snapshot.content_id,
        "totals": dict(snapshot.totals),
        "samples": len(samples),
        "sample_ids": digest({"ids": samples}),
    }


def _records(root: Path) -> dict[str, list[str]]:
    """Digests of all other files by their paths; of JSON without what is personal."""
    records: dict[str, list[str]] = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        path = str(file.relative_to(root))
        if path.startswith((".", *PERSONAL)):
            continue
        data = file.read_bytes()
        if file.suffix == ".json":
            data = digest(_impersonal(json.loads(data))).encode()
        name = DATED.sub(r"\1*.json", path)
        digests = records.setdefault(name, [])
        digests.append(hashlib.sha256(data).hexdigest()[:16])
    return records


def _impersonal(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _impersonal(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if key not in PERSONAL_KEYS}
    if isinstance(value, str):
        return DATED.sub(r"\1*.json", value)
    return [_impersonal(entry) for entry in value] if isinstance(value, list) else value


def problems_between(seen: State, old: State, whole: State) -> list[str]:
    """Say what a reader between a death and the rerun sees that is neither the old nor the new."""
    problems = [f"verify: {problem}" for problem in seen["problems"]]
    for name, version in seen["versions"].items():
        if version not in (old["versions"].get(name), whole["versions"].get(name)):
            problems.append(f"version {name} is neither as before nor as it should be: {version}")
    lost = [name for name in old["versions"] if name not in seen["versions"]]
    problems += [f"version {name} is lost" for name in lost if name in whole["versions"]]
    for name, number in seen["tags"].items():
        if number not in (old["tags"].get(name), whole["tags"].get(name)):
            problems.append(f"tag {name} names {number}")
    return problems


def problems_of_rerun(left: State, whole: State) -> list[str]:
    """Say in what the store differs from one that no fault has touched."""
    problems = [f"verify: {problem}" for problem in left["problems"]]
    problems += [f"left behind: {path}" for path in left["hidden"]]
    for part in ("versions", "tags", "content", "records"):
        found, wanted = left[part], whole[part]
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                problems.append(f"{part}: {name} is {found.get(name)}, not {wanted.get(name)}")
    return problems
