"""The example jobs: from the sample corpus to drawn pictures, and all others as far as they go."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from tests.pipelines.train.conftest import JOBS, trained

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.assemble import assemble
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.samples.catalogue import find_sample
from tokenmill_pipelines.train.config import read_train_job
from tokenmill_schemas.job import read_job, resolve_paths

TOKENS = {"samples": "samples_tokens", "fashion_mnist": "fashion_mnist_tokens"}


def test_every_training_job_has_one_that_makes_its_tokens() -> None:
    """Each reads the very store that the other makes, and there are no further files."""
    for train, tokens in TOKENS.items():
        made = resolve_paths(read_job(JOBS / f"{tokens}.toml")).store.uri
        assert read_train_job(JOBS / f"{train}.toml").source.store == made
    assert {path.stem for path in JOBS.glob("*.toml")} == {*TOKENS, *TOKENS.values()}


@pytest.mark.parametrize("name", sorted(TOKENS))
def test_a_training_jobs_file_says_its_name(name: str) -> None:
    """As reports and flow runs are named."""
    assert tomllib.loads((JOBS / f"{name}.toml").read_text())["name"] == name


def test_the_job_of_fashion_mnist_reads_what_is_fetched() -> None:
    """The listing's name is the catalogue's, and its codebook gives 49 ids of 512."""
    job = read_job(JOBS / "fashion_mnist_tokens.toml")
    assert job.source.options["urls"][0].endswith(
        f"samples/fashion-mnist/{find_sample('fashion-mnist').listing}"
    )


def test_the_sample_corpus_is_learned(tmp_path: Path) -> None:
    """Both jobs as they are but small: the loss falls and every class has its pictures."""
    store = f"store.uri={tmp_path / 'store'}"
    local = ("cluster.backend=local", "cluster.actors=1")
    made = run_job(
        read_job(JOBS / "samples_tokens.toml", overrides=(store, *local)), observer=SilentObserver()
    )
    assert made.totals["samples"] == 36
    small = ("model.width=32", "model.depth=1", "optimiser.steps=12", "sampling.count=1")
    places = (f"source.store={tmp_path / 'store'}", f"output.uri={tmp_path / 'out'}")
    result = trained(read_train_job(JOBS / "samples.toml", overrides=(*small, *places)))
    assert result.loss < 0.95 * result.first_loss
    page = Path(result.report).read_text(encoding="utf-8")
    assert page.count('alt="generated"') == 12
    assert "64 positions of 4,096 ids" in page


def test_the_codebook_of_fashion_mnist_is_small_and_fits(tmp_path: Path) -> None:
    """Less than 100 kB, and the job's operators fit together."""
    sets = (f"store.uri={tmp_path / 'store'}", 'source={kind="files", urls=["."]}')
    assembly = assemble(read_job(JOBS / "fashion_mnist_tokens.toml", overrides=sets))
    (stream,) = assembly.identity.spec.streams
    assert stream.vocab_sizes == (512,)
    assert [axis.size for axis in stream.axes] == [7, 7]
    assert (JOBS / "fashion_mnist.safetensors").stat().st_size < 100_000
