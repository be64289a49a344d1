from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job, job_table, parse_job, read_job, resolve, resolve_paths

TABLE: dict[str, Any] = {
    "name": "n",
    "source": {"kind": "files", "urls": ["images"]},
    "tokenizer": {"kind": "patch_vq"},
    "store": {"uri": "store"},
}

VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
OPTIONS = st.dictionaries(st.text(min_size=1).filter(lambda k: k != "kind"), VALUES, max_size=3)


def operator() -> st.SearchStrategy[dict[str, Any]]:
    """A section that names an operator."""
    return st.builds(lambda kind, options: {"kind": kind, **options}, st.text(min_size=1), OPTIONS)


TABLES = st.fixed_dictionaries(
    {
        "name": st.text(),
        "source": operator(),
        "tokenizer": operator(),
        "store": st.fixed_dictionaries({"uri": st.text(min_size=1)}, optional={"options": OPTIONS}),
    },
    optional={
        "view": operator(),
        "decoder": operator(),
        "shards": st.fixed_dictionaries(
            {}, optional={"unit_assets": st.integers(1, 10**6), "packing": st.just("bits")}
        ),
        "cluster": st.fixed_dictionaries(
            {}, optional={"actors": st.integers(0, 99), "lease_s": st.floats(0.1, 1e6)}
        ),
        "limits": st.fixed_dictionaries({}, optional={"batch_size": st.integers(0, 9)}),
    },
)


@given(TABLES)
def test_a_jobs_table_makes_the_same_job(table: dict[str, Any]) -> None:
    """What a snapshot keeps of a job is enough to run it again."""
    job = parse_job(table)
    assert parse_job(job_table(job)) == job


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"tokeniser": {"kind": "x"}}, "tokeniser", "did you mean 'tokenizer'?"),
        ({"shards": {"fromat": "arrow"}}, "shards.fromat", "did you mean 'format'?"),
        ({"shards": {"format": "arow"}}, "shards.format", "did you mean 'arrow'?"),
        ({"shards": {"unit_assets": 0}}, "shards", "must be positive"),
        ({"cluster": {"lease_s": 0}}, "cluster", "must be positive"),
        ({"cluster": {"backend": "dask"}}, "cluster.backend", "is 'dask'"),
        ({"limits": {"max_pixels": "1e9"}}, "limits.max_pixels", "must be int"),
        ({"source": {"urls": ["a"]}}, "source", "must be a table with a 'kind'"),
        ({"source": "files"}, "source", "must be a table with a 'kind'"),
        ({"store": {}}, "store.uri", "is required"),
    ],
)
def test_a_slip_in_a_job_names_its_place(change: dict[str, Any], path: str, says: str) -> None:
    """The dotted path is the one in the file."""
    with pytest.raises(JobError) as caught:
        parse_job(TABLE | change)
    assert caught.value.path == path
    assert says in str(caught.value)


def test_a_job_needs_its_three_sections() -> None:
    """Each missing one is named."""
    for name in ("source", "tokenizer", "store"):
        with pytest.raises(JobError, match=rf"^{name}: is required"):
            parse_job({k: v for k, v in TABLE.items() if k != name})


def written(folder: Path, text: str) -> Path:
    """A job file."""
    file = folder / "nightly.toml"
    file.write_text(text, encoding="utf-8")
    return file


TEXT = """
[source]
kind = "files"
urls = ["images", "/abs", "s3://bucket/x", "../up/*.png"]
[tokenizer]
kind = "patch_vq"
checkpoint = "random:0"
[store]
uri = "out"
"""


def test_a_file_names_its_job_and_the_folder_of_its_paths(tmp_path: Path) -> None:
    """Relative paths start at the file, wherever the command is run."""
    job = resolve_paths(read_job(written(tmp_path, TEXT)))
    assert job.name == "nightly"
    urls = [f"{tmp_path}/images", "/abs", "s3://bucket/x", f"{tmp_path.parent}/up/*.png"]
    assert job.source.options["urls"] == urls
    assert job.store.uri == f"{tmp_path}/out"
    assert job.tokenizer.options["checkpoint"] == "random:0"


def test_overrides_are_toml_values_and_else_text(tmp_path: Path, monkeypatch: Any) -> None:
    """``--set`` reaches any key, makes sections, and takes paths from where it is typed."""
    monkeypatch.chdir("/")
    overrides = (
        "shards.unit_assets=7",
        "store.message = a word",
        'source.columns=["caption"]',
        "cluster.speculate=false",
        "store.uri=here",
    )
    job = read_job(written(tmp_path, TEXT), overrides=overrides)
    assert job.shards.unit_assets == 7
    assert job.store.message.strip() == "a word"
    assert job.source.options["columns"] == ["caption"]
    assert job.cluster.speculate is False
    assert job.store.uri == "/here"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("shards.unit_asets=7", "shards.unit_asets: unknown key; did you mean 'unit_assets'?"),
        ("shards", "--set wants a.b=value"),
        ("store.uri.x=1", "store.uri.x: 'uri' in 'store.uri.x' is not a table"),
    ],
)
def test_a_wrong_override_says_so(tmp_path: Path, override: str, says: str) -> None:
    """Overrides are as strict as the file."""
    with pytest.raises(JobError) as caught:
        read_job(written(tmp_path, TEXT), overrides=(override,))
    assert says in str(caught.value)


def test_files_that_cannot_be_read_are_job_errors(tmp_path: Path) -> None:
    """Missing, not TOML, not text."""
    with pytest.raises(JobError, match="cannot read the job file"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(JobError, match="is not valid TOML"):
        read_job(written(tmp_path, "[source\n"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(JobError, match="is not valid TOML"):
        read_job(tmp_path / "bytes.toml")


@given(st.text(alphabet="ab/.*", min_size=1), st.sampled_from(["/base", "/base/deep", ""]))
def test_resolving_twice_changes_nothing(text: str, base: str) -> None:
    """A resolved path is absolute, so a second base cannot move it."""
    once = resolve(text, base)
    if base:
        assert once.startswith("/")
        assert resolve(once, "/elsewhere") == once
    else:
        assert once == text


def test_a_jobs_table_has_no_place_for_its_base(tmp_path: Path) -> None:
    """A snapshot's job holds absolute paths instead of this machine's working folder."""
    job: Job = read_job(written(tmp_path, TEXT))
    assert "base" not in job_table(job)
    assert job_table(resolve_paths(job))["store"]["uri"] == f"{tmp_path}/out"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("store.uri=''", "store: uri is empty"),
        ("limits.max_pixels=-1", "limits: max_pixels must be positive"),
        ("limits.asset_deadline_s=0", "must be positive"),
        ("limits.batch_size=-1", "limits: batch_size must be positive, or 0"),
        ("limits.max_quarantined_fraction=1.5", "max_quarantined_fraction must be from 0 to 1"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, override: str, says: str) -> None:
    """An empty store would be the working folder; negative limits would quarantine everything."""
    with pytest.raises(JobError) as caught:
        read_job(written(tmp_path, TEXT), overrides=(override,))
    assert says in str(caught.value)


def test_an_empty_path_is_not_the_working_folder(tmp_path: Path) -> None:
    """``--set tokenizer.checkpoint=`` asks for the default, from whichever folder."""
    job = read_job(written(tmp_path, TEXT), overrides=("tokenizer.checkpoint=",))
    assert resolve_paths(job).tokenizer.options["checkpoint"] == ""
