"""``tokenmill export`` on a store that the command itself made."""

from pathlib import Path

import pyarrow.parquet as pq
from tests.pipelines.cli.conftest import Outcome, call

from tokenmill.export import formats


def test_an_export_says_what_it_wrote(made: tuple[Path, Outcome], tmp_path: Path) -> None:
    """As JSON and in words; options reach the format and a filter its samples."""
    store, _ = made
    args = ("export", f"{store}@1", "--format", "parquet", "--option", "file_bytes=20000")
    done = call(*args, "--to", str(tmp_path / "all"), "--json").document()
    files = sorted((tmp_path / "all").glob("*.parquet"))
    assert done["files"] == len(files) > 1
    assert done["samples"] == sum(pq.read_metadata(file).num_rows for file in files)
    assert done["bytes"] == sum(file.stat().st_size for file in files)
    assert (done["format"], done["number"], done["uri"]) == ("parquet", 1, str(tmp_path / "all"))
    some = call(*args, "--to", str(tmp_path / "some"), "--where", "view.flip or asset.width >= 300")
    assert some.code == 0
    table = pq.read_table(tmp_path / "some")
    assert 0 < table.num_rows < done["samples"]
    assert min(table["asset.width"].to_pylist()) >= 300
    assert f"samples  {table.num_rows}\n" in some.out


def test_what_cannot_be_exported_is_exit_code_2(made: tuple[Path, Outcome], tmp_path: Path) -> None:
    """A slip in the format, its options, the filter or the place says so in one line."""
    store, _ = made
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thing").write_bytes(b"!")
    cases = {
        ("--format", "webdatasets"): "did you mean 'webdataset'?",
        ("--option", "file_byte=5"): "did you mean 'file_bytes'?",
        ("--option", "file_bytes"): "not KEY=VALUE",
        ("--option", "file_bytes=much"): "must be int",
        ("--where", "asset.widht > 5"): "did you mean 'asset.width'? (character 1",
        ("--where", "asset.width >"): "expected a column or a value (character 14, at the end)",
        ("--where", "asset.width > 99999"): "no sample to export",
        ("--to", str(tmp_path / "taken")): "not empty",
    }
    for (option, value), message in cases.items():
        given = {"--format": "parquet", "--to": str(tmp_path / "new"), option: value}
        outcome = call("export", str(store), *(word for pair in given.items() for word in pair))
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert message in outcome.err
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thing"]


def test_the_help_names_every_format() -> None:
    """A format that is added is told to people."""
    shown = call("export", "--help").out
    assert all(name in shown for name in formats())
