"""Fitting jobs: what is read, what is refused, and what shapes the weights."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.fit.conftest import JOBS, JobOf, data

from tokenmill_pipelines.fit.config import (
    FitJob,
    fit_job_table,
    located,
    parse_fit_job,
    read_fit_job,
)
from tokenmill_pipelines.samples.catalogue import find_sample
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import OperatorConfig

NAMES = sorted(path.stem for path in JOBS.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_job_of_ours_says_its_name_and_learns_from_what_may_be_learned_from(name: str) -> None:
    """The card's command names the file, and nothing that is kept for judging is in it."""
    job = read_fit_job(JOBS / f"{name}.toml")
    assert tomllib.loads((JOBS / f"{name}.toml").read_text())["name"] == name == job.name
    uses = {find_sample(corpus).use for part in job.data for corpus in part.corpora}
    assert uses <= {"training"}


@pytest.mark.parametrize("name", NAMES)
def test_a_job_is_equal_to_the_job_of_its_table(name: str) -> None:
    """What a flow run is given makes the same job."""
    job = read_fit_job(JOBS / f"{name}.toml")
    assert parse_fit_job(fit_job_table(job), base=job.base) == job


def test_paths_start_at_the_file_and_do_not_shape_the_weights(tmp_path: Path) -> None:
    """A job that is moved, with what it names, is the same job."""
    text = (JOBS / "samples.toml").read_text()
    jobs = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples.toml").write_text(text)
        jobs.append(read_fit_job(tmp_path / name / "samples.toml", overrides=("output.uri=here",)))
    one, other = jobs
    assert one.identity == other.identity
    assert one.output.uri == str(Path.cwd() / "here")
    section = one.data[0].source
    assert section is not None
    assert located(section, one.base).options["urls"] == [
        str(tmp_path.parent / "samples" / "images.jsonl")
    ]
    assert located(OperatorConfig("x", {"checkpoint": "random:0"}), "/a") == OperatorConfig(
        "x", {"checkpoint": "random:0"}
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": []}, "data is empty"),
        ({"data": {}}, r"data: must be one or more tables \[\[data\]\]"),
        ({"data": [{"name": "a"}]}, r"data\[0\]\.view"),
        ({"data": [data("a", Path("x")), data("a", Path("y"))]}, "must be distinct"),
        ({"data": [data("a", Path("x"), corpora=["openclipart"])]}, "either corpora or a source"),
        ({"data": [data("a", Path("x"), share=0)]}, "share must be positive"),
        ({"data": [{**data("a", Path("x")), "view": "native"}]}, "must be a table with a 'kind'"),
        ({"loss": {"psnr": 0, "ssim": 0}}, "one of them must be positive"),
        ({"loss": {"gan": 1.0}}, "loss.gan: unknown key"),
        ({"batch": {"side": 0}}, "must be positive"),
        ({"batch": {"recoloured": 2}}, "recoloured must be in"),
        ({"machine": {"threads": 0}}, "threads must be positive"),
        ({"machine": {"autocast": "float16"}}, "machine.autocast"),
        ({"held_out": 0}, "held_out must be in"),
        ({"tried": 0}, "tried positive"),
        ({"name": "../up"}, "name is a file's name"),
        ({"tokenizer": {"variant": "f8"}}, "tokenizer: must be a table with a 'kind'"),
    ],
)
def test_a_slip_is_named(fit_job: JobOf, changes: dict[str, object], said: str) -> None:
    """Errors begin with the key and say what is allowed."""
    with pytest.raises(JobError, match=said):
        fit_job(**changes)


def test_shares_add_up_to_one(fit_job: JobOf) -> None:
    """Whatever their scale."""
    parts = [data("a", Path("x"), share=3), data("b", Path("x"), share=1)]
    assert fit_job(data=parts).shares() == (0.75, 0.25)


def test_names_places_and_what_is_tried_shape_no_weights(fit_job: JobOf) -> None:
    """They may change when a fit is resumed; all else may not."""
    job = fit_job("a")
    same: list[FitJob] = [
        fit_job("b", name="b", tried=5, licence="MIT", corpora="/elsewhere"),
        replace(job, machine=replace(job.machine, device="cuda")),
    ]
    assert all(other.identity == job.identity for other in same)
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"held_out": 0.2},
        {"batch": {"side": 16}},
        {"loss": {"l1": 1.0}},
        {"optimiser": {"steps": 7}},
        {"machine": {"threads": 2}},
    ]
    assert all(fit_job("a", **change).identity != job.identity for change in others)
