"""What the commands about versions say of stores with branches, groups and missing assets."""

from pathlib import Path

import pyarrow as pa
import pytest
from tests.pipelines.cli.conftest import ROOT, call

from tokenmill.store import Store, paths
from tokenmill.store.groups import add_group, from_table
from tokenmill.testing.stores import add_assets

PHOTOS = ROOT / "pipelines" / "samples" / "images" / "drawings"
NAMES = ("acorn.png", "camel.png", "globe.png")


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Two versions, the newer one with the tag v2."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, {"a": "1", "b": "1"})
    add_assets(made, {"b": "2"})
    made.tag("v2")
    return made.uri


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job over a folder of three pictures."""
    (tmp_path / "pictures").mkdir()
    for name in NAMES:
        (tmp_path / "pictures" / name).write_bytes((PHOTOS / name).read_bytes())
    file = tmp_path / "job.toml"
    file.write_text(
        'source = { kind = "files", urls = ["pictures"] }\n'
        'view = { kind = "center_crop", size = 32 }\n'
        'tokenizer = { kind = "patch_vq" }\n'
        'store = { uri = "tokens" }\n'
        'cluster = { backend = "local", actors = 1 }\n'
    )
    return file


def test_a_branch_without_versions_of_its_own_is_listed_by_its_name(store: str) -> None:
    """Its newest version is that of the branch that it comes from, tags and all."""
    begun = call("branch", store, "trial", "--json").document()
    assert [(one["branch"], one["number"], one["tags"]) for one in begun] == [
        ("main", 2, ["v2"]),
        ("trial", 2, ["v2"]),
    ]
    lines = call("branch", store).out.splitlines()
    assert [line.split()[0] for line in lines if "main:2" in line] == ["trial"]


def test_a_run_on_a_branch_says_which(job: Path) -> None:
    """The numbers of branches say nothing by themselves."""
    store = str(job.parent / "tokens")
    assert "snapshot     1\n" in call("run", str(job)).out
    call("branch", store, "trial")
    (job.parent / "pictures" / "more.png").write_bytes((PHOTOS / "globe.png").read_bytes())
    assert "snapshot     trial:2\n" in call("run", str(job), "--set", "store.branch=trial").out


def test_a_plan_says_what_becomes_of_missing_assets(job: Path) -> None:
    """Also of those that were missing before the job began to drop what it misses."""
    call("run", str(job))
    (job.parent / "pictures" / NAMES[0]).unlink()
    drop = ("--set", "increment.on_missing=drop")
    assert "missing      1\n" in call("plan", str(job)).out
    assert "missing      1, their samples hidden\n" in call("plan", str(job), *drop).out
    assert "listed       2: 1 missing\n" in call("run", str(job)).out
    assert "still missing  1\n" in call("plan", str(job)).out
    planned = call("plan", str(job), *drop)
    assert "still missing  1, their samples hidden\n" in planned.out
    ran = call("run", str(job), *drop, "--json").document()
    assert (ran["listed"]["missing"], ran["listed"]["still_missing"]) == (0, 1)
    assert (ran["committed"], ran["totals"]["samples"]) == (True, 2)
    said = call("show", str(job.parent / "tokens")).out
    assert "missing      1 listed by their source no longer\n" in said
    assert "tokens       48, hidden ones included\n" in said


def test_show_names_the_streams_of_groups_and_the_report_of_that_version(store: str) -> None:
    """Not the newest report, which is of another version."""
    opened = Store.open(store)
    add_group(opened, "scores", from_table(pa.table({"asset_key": ["a"], "score": [0.5]})))
    for number in (1, 2):
        opened.storage.create(f"{paths.REPORTS}/{number:06d}-20260101T000000000.html", b"page")
    reports = [call("show", f"{store}@{n}", "--json").document()["report"] for n in (1, 2, 3)]
    assert [report[:14] for report in reports] == ["reports/000001", "reports/000002", ""]
    (group,) = call("show", store, "--json").document()["groups"]
    assert group == {"name": "scores", "streams": [], "columns": ["score"]}
    assert call("columns", "list", f"{store}@1").out == "no column groups\n"


def test_feed_shows_streams_and_columns_that_are_asked_for(store: str) -> None:
    """Of columns the first value of each batch; nothing new is said to be so."""
    told = call("feed", store, "--columns", "asset_key", "--batch-size", "1", "--json")
    assert all(batch["columns"]["asset_key"] in "ab" for batch in told.document()["shown"])
    assert "asset_key" in call("feed", store, "--columns", "asset_key", "--batch-size", "1").out
    assert call("feed", store, "--streams", "imagine").code == 2
    nothing = call("feed", store, "--since", "v2", "--batch-size", "1")
    assert (nothing.code, "nothing new since 2" in nothing.err) == (1, True)


@pytest.mark.parametrize("section", ["increment", "schedule", "store", "shards", "cluster"])
def test_sections_without_kinds_show_their_keys(section: str) -> None:
    """What a job may say of them is found from the command."""
    shown = call("kinds", section, "--json").document()
    assert shown["section"] == section
    assert shown["keys"]
    assert call("kinds", section, "files").code == 2


def test_a_diff_shortens_content_hashes_in_tables_only(tmp_path: Path) -> None:
    """JSON has them whole."""
    made = Store.of(str(tmp_path / "store"))
    version = "10-1;sha256=" + "0123456789abcdef" * 4
    add_assets(made, {"a": "1"})
    add_assets(made, {"a": version})
    table = call("diff", f"{made.uri}@1", "@2").out
    assert "10-1;sha256=0123456789ab " in table
    (asset,) = call("diff", f"{made.uri}@1", "@2", "--json").document()["assets"]
    assert asset["version_after"] == version


def test_a_compaction_is_told_in_words(store: str) -> None:
    """Before it, after it, and when there is nothing left to do."""
    would = call("compact", store, "--dry-run").out
    assert "would compact" in would
    assert "snapshot" not in would
    assert "snapshot   3\n" in call("compact", store).out
    assert call("compact", store).out == "compact   nothing to do\nsnapshot  3\n"
