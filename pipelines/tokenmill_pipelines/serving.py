"""Serving, as far as it needs no scheduler: which jobs of a folder, which store, what to announce.

A job is served from its file, which every run reads anew; the schedule is read once, at the start.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmill_infra.storage.paths import local_root, without_credentials
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job, read_job, resolve_paths

if TYPE_CHECKING:
    from tokenmill_schemas.snapshot import Snapshot  # which loads Arrow, and that numpy

#: The name of the event after each commit.
COMMITTED = "tokenmill.snapshot.committed"
#: What a scheduler's names cannot hold.
FORBIDDEN = "/%&<>"
_EVENTS = uuid.UUID("5f0c6a0e-5f5c-4c8e-9d1a-3f9b6f1f8f1d")


@dataclass(frozen=True, slots=True)
class ServedJob:
    """A job that a schedule runs, and the file that it is read from at each run."""

    file: Path
    job: Job

    @property
    def store(self) -> str:
        """The store's address."""
        return store_address(self.job)


def scheduled_jobs(folder: Path) -> tuple[ServedJob, ...]:
    """Return the jobs of a folder's ``*.toml`` whose ``schedule.cron`` is set, by file name.

    Raises:
        JobError: there is no such folder, or no job with a schedule in it, or something is wrong
            with its files; names each of them.
    """
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise JobError(f"there are no job files (*.toml) in {folder}")
    jobs, problems = [], []
    for file in files:
        try:
            jobs.append(ServedJob(file.resolve(), checked_job(file)))
        except JobError as error:
            problems.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    served = tuple(job for job in jobs if job.job.schedule.cron)
    problems += _name_problems(served)
    if problems:
        raise JobError("; ".join(problems))
    if not served:
        raise JobError(f"no job in {folder} has a schedule: set [schedule] cron in one of them")
    return served


def checked_job(file: Path) -> Job:
    """Read a job and build its operators, so that a slip is told now and not at night.

    Raises:
        JobError: the job is wrong.
    """
    job = read_job(file)
    if job.schedule.cron:
        from tokenmill_pipelines.assemble import assemble

        assemble(job)
    return job


def _name_problems(served: Iterable[ServedJob]) -> Iterator[str]:
    served = tuple(served)
    counts = Counter(entry.job.name for entry in served)
    for entry in served:
        name = entry.job.name
        if counts[name] > 1:
            yield f"{entry.file}: name: {name!r} is the name of {counts[name]} jobs"
        if not name.strip() or any(character in FORBIDDEN for character in name):
            yield f"{entry.file}: name: {name!r} is empty, or has one of {' '.join(FORBIDDEN)}"


def store_address(job: Job) -> str:
    """Return where a job writes to, the same text for all jobs that write there.

    Links in local paths are followed and credentials left out. A local path means the same store
    on every machine that a scheduler has runs on, as on a shared file system.
    """
    uri = resolve_paths(job).store.uri
    root = local_root(uri)
    return str(root.resolve()) if root is not None else without_credentials(uri)


def slot_name(address: str) -> str:
    """Return the name of the one slot that runs on a store share: readable, and of any address."""
    stem = "".join(c if c.isalnum() else "-" for c in Path(address).name)[:40]
    return f"tokenmill-{stem}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the world is told of a commit; ``event_id`` is a function of the commit's own id."""

    event_id: uuid.UUID
    resource: dict[str, str]
    related: list[dict[str, str]]
    payload: dict[str, Any]


def announcement(
    snapshot: Snapshot, *, store: str, job: str, added: dict[str, int]
) -> Announcement:
    """Return what to tell of a snapshot that a run of ``job`` has just committed.

    ``store`` is the store's URI without credentials, ``added`` what the run made (assets,
    samples, tokens, bytes); the payload's ``totals`` are the whole snapshot's.
    """
    return Announcement(
        event_id=uuid.uuid5(_EVENTS, snapshot.commit_id),
        resource={
            "prefect.resource.id": f"tokenmill.store.{store}",
            "prefect.resource.name": store.rstrip("/").rpartition("/")[2] or store,
            "tokenmill.store.uri": store,
        },
        related=[
            {
                "prefect.resource.id": f"tokenmill.job.{job}",
                "prefect.resource.role": "job",
                "prefect.resource.name": job,
            }
        ],
        payload={
            "store": store,
            "snapshot": snapshot.number,
            "content_id": snapshot.content_id,
            "commit_id": snapshot.commit_id,
            "operation": snapshot.operation,
            "job": job,
            "totals": dict(snapshot.totals),
            "added": dict(added),
        },
    )
