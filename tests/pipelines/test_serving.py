"""Which jobs of a folder are served, which store they share, what is announced of a commit."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tokenmill_pipelines.serving import (
    announcement,
    checked_job,
    scheduled_jobs,
    slot_name,
    store_address,
)
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import Snapshot

JOB = """
[source]
kind = "tokenmill.testing.faults:NoisePictures"
count = 6
[tokenizer]
kind = "tokenmill.testing.faults:BlockMeans"
[store]
uri = "{store}"
[schedule]
cron = "{cron}"
"""


def write(folder: Path, name: str, *, cron: str = "0 3 * * *", store: str = "store") -> Path:
    """Write a job file."""
    file = folder / f"{name}.toml"
    file.write_text(JOB.format(cron=cron, store=store))
    return file


def test_jobs_with_a_schedule_are_served_by_their_absolute_files(tmp_path: Path) -> None:
    """In the order of the file names; jobs without a schedule are left alone."""
    write(tmp_path, "night")
    write(tmp_path, "day", cron="0 12 * * *")
    write(tmp_path, "never", cron="")
    (tmp_path / "notes.txt").write_text("not a job")
    served = scheduled_jobs(tmp_path)
    assert [entry.job.name for entry in served] == ["day", "night"]
    assert all(entry.file.is_absolute() and entry.file.is_file() for entry in served)


def test_every_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    """One that is no TOML, one of a wrong cron, one of an unknown kind, also without a schedule."""
    write(tmp_path, "good")
    write(tmp_path, "cron", cron="at night")
    (tmp_path / "toml.toml").write_text("name =")
    write(tmp_path, "idle", cron="", store="")
    kind = write(tmp_path, "kind")
    kind.write_text(kind.read_text().replace("BlockMeans", "NoSuch"))
    with pytest.raises(JobError) as refused:
        scheduled_jobs(tmp_path)
    text = str(refused.value)
    assert "good.toml" not in text
    assert all(f"{name}.toml" in text for name in ("cron", "toml", "idle", "kind"))
    assert "schedule" in text
    assert "NoSuch" in text
    assert "store" in text


def test_a_folder_without_scheduled_jobs_is_refused(tmp_path: Path) -> None:
    """Nothing to serve is a mistake, not a server that never does anything."""
    with pytest.raises(JobError, match="no job files"):
        scheduled_jobs(tmp_path)
    write(tmp_path, "idle", cron="")
    with pytest.raises(JobError, match=r"\[schedule\] cron"):
        scheduled_jobs(tmp_path)
    with pytest.raises(JobError, match="no job files"):
        scheduled_jobs(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a/b", "50%", " "])
def test_names_must_be_deployments(tmp_path: Path, name: str) -> None:
    """They are unique, and without what Prefect's names cannot hold."""
    first = write(tmp_path, "one")
    first.write_text(f'name = "{name}"\n' + first.read_text())
    with pytest.raises(JobError, match=r"one\.toml: name"):
        scheduled_jobs(tmp_path)


def test_two_jobs_of_one_name_are_refused(tmp_path: Path) -> None:
    """One of them would take the other's deployment."""
    for stem in ("one", "two"):
        file = write(tmp_path, stem)
        file.write_text('name = "same"\n' + file.read_text())
    with pytest.raises(JobError, match="name of 2 jobs") as refused:
        scheduled_jobs(tmp_path)
    assert "one.toml" in str(refused.value)
    assert "two.toml" in str(refused.value)


def test_a_store_has_one_address_however_it_is_written(tmp_path: Path) -> None:
    """Relative, absolute, as a URL or through a link; with credentials or without."""
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    texts = ["store", "./x/../store/", "link", str(tmp_path / "store"), f"file://{tmp_path}/store"]
    jobs = [checked_job(write(tmp_path, "job", cron="", store=text)) for text in texts]
    assert {store_address(job) for job in jobs} == {str((tmp_path / "store").resolve())}
    remote = checked_job(write(tmp_path, "job", cron="", store="memory://bucket/store/"))
    assert store_address(remote) == "memory://bucket/store"


def test_slots_are_named_for_people_and_differ_by_the_whole_address() -> None:
    """The end of the address, and a digest of all of it; nothing that an API would refuse."""
    names = {slot_name(f"s3://{bucket}/a&b/clips%20") for bucket in ("one", "two")}
    assert len(names) == 2
    assert all(name.startswith("tokenmill-clips-20-") for name in names)


def test_an_announcement_tells_a_trainer_all_it_needs() -> None:
    """Where, which version, what is in it and what is new; its id is the commit's."""
    facts = {"number": 7, "content_id": "c" * 8, "commit_id": "d" * 8, "operation": "append"}
    snapshot = cast("Snapshot", SimpleNamespace(**facts, totals={"samples": 30}))
    told = announcement(snapshot, store="s3://b/tokens", job="night", added={"samples": 10})
    again = announcement(snapshot, store="s3://b/tokens", job="night", added={"samples": 10})
    assert told == again
    assert isinstance(told.event_id, uuid.UUID)
    assert told.resource["prefect.resource.id"] == "tokenmill.store.s3://b/tokens"
    assert told.related[0]["prefect.resource.id"] == "tokenmill.job.night"
    assert told.payload == {
        "store": "s3://b/tokens",
        "snapshot": 7,
        "content_id": "c" * 8,
        "commit_id": "d" * 8,
        "operation": "append",
        "job": "night",
        "totals": {"samples": 30},
        "added": {"samples": 10},
    }
