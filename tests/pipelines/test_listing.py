from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tokenmill.store.plans import listed, read_unit
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.assemble import Assembly, assemble
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.listing import (
    Listing,
    list_assets,
    list_quarantined,
    plan_units,
    unit_tables,
)
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job

JobOf = Callable[..., Job]


def listing_of(job: Job, folder: Path) -> tuple[Assembly, Listing]:
    """List a job against its store as it is."""
    assembly = assemble(job)
    head = assembly.store.check(assembly.identity)
    file = folder / "listing.parquet"
    return assembly, list_assets(assembly, file, head=head, observer=SilentObserver())


def test_a_first_listing_is_all_new(noise_job: JobOf, tmp_path: Path) -> None:
    """Rows and counts agree; a repeated key is counted as such and stays in the listing."""
    job = noise_job(source={"count": 9, "repeated": ["picture-0002"]})
    _, listing = listing_of(job, tmp_path)
    assert (listing.assets, listing.new, listing.duplicates) == (10, 10, 1)
    assert (listing.unchanged, listing.changed, listing.bytes) == (0, 0, 0)
    assert pq.read_table(listing.file).column("key").to_pylist()[8:] == [
        "picture-0008",
        "picture-0002#duplicate-1",
    ]


def test_a_source_that_lists_nothing_is_the_jobs_error(noise_job: JobOf, tmp_path: Path) -> None:
    """An empty folder is a slip, not a finished job."""
    with pytest.raises(JobError, match=r"^source: lists no assets"):
        listing_of(noise_job(source={"count": 0}), tmp_path)


def test_only_what_the_store_lacks_is_listed_again(noise_job: JobOf, tmp_path: Path) -> None:
    """Duplicates of the first run are known too."""
    run_job(noise_job(source={"count": 6, "repeated": ["picture-0001"]}), observer=SilentObserver())
    more = noise_job(source={"count": 8, "repeated": ["picture-0001"]})
    _, listing = listing_of(more, tmp_path)
    assert (listing.assets, listing.new, listing.unchanged) == (9, 2, 7)
    assert pq.read_table(listing.file).column("number").to_pylist() == [6, 7]


class Warned(SilentObserver):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def warn(self, message: str, /, **facts: Any) -> None:
        """Keep it."""
        self.said.append((message, facts))


def test_changed_assets_are_counted_said_and_left(sample_job: JobOf, tmp_path: Path) -> None:
    """With on_changed = "keep" a picture keeps its old samples, and the run says so."""
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 40), "red").save(folder / f"{name}.png")
    source = (f'source={{kind="files", urls=["{folder}"]}}',)
    run_job(sample_job("store", *source), observer=SilentObserver())
    Image.new("RGB", (50, 50), "blue").save(folder / "b.png")
    observer = Warned()
    left = sample_job("store", *source, "increment.on_changed=keep")
    result = run_job(left, observer=observer)
    assert (result.committed, result.done["assets"]) == (False, 0)
    assert [facts for _, facts in observer.said] == [{"count": 1}]


def test_units_are_written_as_they_are_named(noise_job: JobOf, tmp_path: Path) -> None:
    """Each row group holds its unit's rows; planning again gives the same parts."""
    assembly, listing = listing_of(noise_job(source={"count": 14}), tmp_path)
    planned = plan_units(assembly, listing)
    assert [unit.assets for unit in planned.units] == [6, 6, 2]
    expected = list(unit_tables(assembly, listing))
    for unit, (name, table) in zip(planned.units, expected, strict=True):
        assert unit.unit_id == name
        assert read_unit(assembly.store.storage, unit).equals(table)
    (part,) = planned.plans
    rows = [b.num_rows for b in listed(assembly.store.storage, part, ["key"])]
    assert sum(rows) == part.rows == 14
    assert plan_units(assembly, listing) == planned
    salted = plan_units(assembly, listing, salt="retry")
    assert not {u.unit_id for u in salted.units} & {u.unit_id for u in planned.units}


@pytest.mark.parametrize(
    "change",
    [
        {"view": {"kind": "center_crop", "size": 24, "rule": "bicubic"}},
        {"shards": {"packing": "bits"}},
        {"shards": {"batch_rows": 16}},
        {"shards": {"format": "webdataset"}},
    ],
    ids=str,
)
def test_what_changes_a_shards_bytes_changes_its_unit(
    noise_job: JobOf, tmp_path: Path, change: dict[str, Any]
) -> None:
    """No receipt of other settings is ever reused."""
    names = []
    for job in (noise_job(), noise_job(**change)):
        assembly, listing = listing_of(job, tmp_path)
        names.append({name for name, _ in unit_tables(assembly, listing)})
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": {"actors": 3, "decode_threads": 2}},
        {"limits": {"batch_size": 1}},
    ],
    ids=str,
)
def test_how_a_job_is_run_changes_no_unit(
    noise_job: JobOf, tmp_path: Path, change: dict[str, Any]
) -> None:
    """More actors find the receipts of fewer."""
    names = []
    for job in (noise_job(), noise_job(**change)):
        assembly, listing = listing_of(job, tmp_path)
        names.append([name for name, _ in unit_tables(assembly, listing)])
    assert names[0] == names[1]


def test_quarantined_assets_are_listed_by_key(noise_job: JobOf, tmp_path: Path) -> None:
    """Whatever the store has; keys that the source no longer lists are simply not there."""
    assembly = assemble(noise_job())
    keys = {"picture-0003", "picture-0020", "gone"}
    listing = list_quarantined(
        assembly, tmp_path / "listing.parquet", keys, observer=SilentObserver()
    )
    assert pq.read_table(listing.file).column("number").to_pylist() == [3, 20]
