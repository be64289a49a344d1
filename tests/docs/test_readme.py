import re
from pathlib import Path

import pytest

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import parse_job, read_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every Python block runs as printed, on the store that ``make demo`` makes."""
    uri = tmp_path / "stores" / "demo"
    job = ROOT / "pipelines" / "jobs" / "tiny.toml"
    overrides = (f"store.uri={uri}", "cluster.backend=local")
    run_job(read_job(job, overrides=overrides), observer=SilentObserver())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "3 (4, 32, 32)" in shown
    assert "\n4 [" in shown


def test_the_job_of_the_readme_is_valid() -> None:
    """The TOML block is a job that parses strictly."""
    import tomllib

    for block in _blocks("toml"):
        parse_job({"name": "readme", **tomllib.loads(block)})


def test_links_of_the_readme_lead_somewhere() -> None:
    """Every relative link names a file or folder of the repository."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []
