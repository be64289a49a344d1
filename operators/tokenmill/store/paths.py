"""Where things lie in a store; FORMAT.md says the same in words."""

from __future__ import annotations

MAIN = "main"

LOG = "_log"
TAGS = "_refs/tags"
BRANCHES = "_refs/branches"
TAKEDOWNS = "_takedowns"
RUNNING = "_running"
SEGMENTS = "manifest"
REJECTS = "quarantine"
PLANS = "plans"
TOMBSTONES = "tombstones"
MISSING = "missing"
GROUPS = "columns"
RECEIPTS = "receipts"
REPORTS = "reports"
CODEBOOKS = "codebooks"
DATA = "data"


def log_folder(branch: str) -> str:
    """Folder of a branch's snapshots."""
    return LOG if branch == MAIN else f"{BRANCHES}/{branch}"


def log_file(number: int, branch: str = MAIN) -> str:
    """Path of snapshot ``number`` of a branch."""
    return f"{log_folder(branch)}/{number:020d}.json"


def log_number(path: str) -> int | None:
    """The number in the path of a numbered file, None if it has none."""
    stem = path.rpartition("/")[2].removesuffix(".json")
    return int(stem) if len(stem) == 20 and stem.isdigit() else None


def tag_file(name: str) -> str:
    """Path of a tag."""
    return f"{TAGS}/{name}.json"


def fork_file(branch: str) -> str:
    """Path of the record that says where a branch begins."""
    return f"{BRANCHES}/{branch}/fork.json"


def takedown_file(number: int) -> str:
    """Path of takedown record ``number``."""
    return f"{TAKEDOWNS}/{number:020d}.json"


def receipt_file(unit_id: str) -> str:
    """Path of a unit's receipt."""
    return f"{RECEIPTS}/{unit_id}.json"


def shard_file(unit_id: str, sha256: str, suffix: str) -> str:
    """Path of a shard: the unit, and which attempt's bytes, by their hash.

    Attempts that made the same bytes share a file, so a rerun after a kill leaves no second copy,
    and attempts that did not never overwrite each other.
    """
    return f"{DATA}/{unit_id}-{sha256[:16]}.{suffix}"


def codebook_file(fingerprint: str) -> str:
    """Path of the codebook of a fingerprint's tokens."""
    return f"{CODEBOOKS}/{fingerprint[:32]}.safetensors"


def group_file(group: str, shard: str, sha256: str, suffix: str) -> str:
    """Path of a column group's file beside the data shard at ``shard``."""
    unit = shard.rpartition("/")[2].partition(".")[0]
    return f"{GROUPS}/{group}/{unit}-{sha256[:16]}.{suffix}"
