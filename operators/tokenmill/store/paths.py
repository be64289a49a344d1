"""Where things lie in a store; FORMAT.md says the same in words."""

from __future__ import annotations

LOG = "_log"
TAGS = "_refs/tags"
SEGMENTS = "manifest"
REJECTS = "quarantine"
PLANS = "plans"
RECEIPTS = "receipts"
REPORTS = "reports"
DATA = "data"


def log_file(number: int) -> str:
    """Path of snapshot ``number`` of the main branch."""
    return f"{LOG}/{number:020d}.json"


def log_number(path: str) -> int | None:
    """The snapshot number in a log file's path, None if it is not one."""
    stem = path.removeprefix(f"{LOG}/").removesuffix(".json")
    return int(stem) if len(stem) == 20 and stem.isdigit() else None


def tag_file(name: str) -> str:
    """Path of a tag."""
    return f"{TAGS}/{name}.json"


def receipt_file(unit_id: str) -> str:
    """Path of a unit's receipt."""
    return f"{RECEIPTS}/{unit_id}.json"


def shard_file(unit_id: str, sha256: str, suffix: str) -> str:
    """Path of a shard: the unit, and which attempt's bytes, by their hash.

    Attempts that made the same bytes share a file, so a rerun after a kill leaves no second copy,
    and attempts that did not never overwrite each other.
    """
    return f"{DATA}/{unit_id}-{sha256[:16]}.{suffix}"
