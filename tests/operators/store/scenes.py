"""Stores in which something was taken down, and what is left in them when it was purged."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill.store import Commit, Store
from tokenmill.store.verify import verify_store
from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_pipelines.assemble import assemble
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import Run
from tokenmill_pipelines.stages import encode_stage, list_stage, plan_stage
from tokenmill_schemas.job import Job

JobOf = Callable[..., Job]


def made(job: Job) -> Store:
    """The store of a job that was run."""
    return Store.open(run_job(job, observer=SilentObserver()).store_uri)


@contextmanager
def under_way(job: Job, folder: Path) -> Iterator[tuple[Store, Commit]]:
    """A run that has done everything but its commit, and that."""
    folder.mkdir(exist_ok=True)
    run = Run(assemble(job), SilentObserver(), folder)
    for stage in (list_stage, plan_stage, encode_stage):
        stage(run)
    yield (
        run.assembly.store,
        Commit(run.encoding.receipts, run.planned.plans, run.assembly.identity, base=run.base),
    )
    run.release()


def shown(store: Store, ref: int | str | None = None) -> list[str]:
    """The samples that a version shows, in order."""
    batches = store.at(ref).scan(["sample_id"])
    return [name for batch in batches for name in batch.column("sample_id").to_pylist()]


def sound(store: Store) -> bool:
    """Whether `verify` finds nothing wrong in any version of any branch."""
    stores = [store, *(store.on(name) for name in store.refs.branches())]
    problems = [
        f"{version.branch}:{version.number}: {problem}"
        for each in stores
        for version in each.snapshots()
        for problem in verify_store(each, version).problems
    ]
    assert problems == []
    return True


def files(root: Path) -> dict[str, bytes]:
    """All files of a local store, hidden ones too."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def mentions(root: Path, names: list[str]) -> list[str]:
    """The files below a folder in whose bytes, or decoded values, one of ``names`` stands."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        text = path.read_bytes().decode(errors="replace") + "".join(_decoded(path))
        if any(name in text for name in names):
            found.append(str(path.relative_to(root)))
    return found


def _decoded(path: Path) -> Iterator[str]:
    """What a file says once it is no longer compressed or packed."""
    if path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist())
        yield str(pq.ParquetFile(path).metadata.metadata)
    elif path.suffix == ".arrow":
        yield str(pa.ipc.open_file(path).read_all().to_pylist())
    elif path.suffix == ".tar":
        with tarfile.open(path) as archive:
            members = [archive.extractfile(member) for member in archive.getmembers()]
        yield str([member.name for member in members if member is not None])


@dataclass(frozen=True, slots=True)
class Between:
    """A storage in which something happens just before a certain file is created."""

    inner: Storage
    suffix: str
    act: Callable[[], Any]
    done: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """The inner storage's."""
        return self.inner.uri

    def create(self, path: str, data: bytes) -> None:
        """Create, after what happens, once."""
        if path.endswith(self.suffix) and not self.done:
            self.done.append(path)
            self.act()
        self.inner.create(path, data)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read."""
        return self.inner.read(path, start, stop)

    def create_from(self, path: str, local: Path) -> None:
        """Create from a file."""
        self.inner.create_from(path, local)

    def list(self, prefix: str) -> Iterator[Entry]:
        """List."""
        return self.inner.list(prefix)

    def size(self, path: str) -> int | None:
        """Look up a size."""
        return self.inner.size(path)

    def exists(self, path: str) -> bool:
        """Look up a file."""
        return self.inner.exists(path)

    def delete(self, path: str) -> None:
        """Delete."""
        self.inner.delete(path)

    def local(self, path: str) -> Path | None:
        """Return the local path."""
        return self.inner.local(path)
