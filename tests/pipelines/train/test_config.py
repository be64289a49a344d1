import pytest
from tests.pipelines.train.conftest import JOBS, JobOf

from tokenmill_pipelines.train.config import (
    parse_train_job,
    read_train_job,
    train_job_table,
)
from tokenmill_schemas.errors import JobError


def test_a_job_is_equal_to_the_job_of_its_table(train_job: JobOf) -> None:
    """What a flow run is given makes the same job."""
    job = train_job()
    assert parse_train_job(train_job_table(job), base=job.base) == job


def test_paths_start_at_the_file_and_overridden_ones_where_one_stands() -> None:
    """As in tokenizing jobs."""
    job = read_train_job(JOBS / "fashion_mnist.toml", overrides=("output.uri=here",))
    assert job.source.store.endswith("/stores/fashion_mnist")
    assert not job.output.uri.startswith(str(JOBS))
    assert job.output.uri.endswith("/here")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.kinds=causal", "model.kinds: unknown key; did you mean 'kind'"),
        ("model.kind=diffusion", "model.kind: is 'diffusion'"),
        ("model.heads=3", "model: width 32 is not a multiple of heads 3"),
        ("model.condition_dropout=1.0", "condition_dropout must be in"),
        ("optimiser.steps=0", "optimiser: steps must be positive"),
        ("optimiser.ema=1.0", "ema must be in"),
        ("cluster.workers=5", "source.batch_size 12 is not a multiple of cluster.workers 5"),
        ("sampling.guidance=-1.0", "must not be negative"),
        ("output.keep=0", "output: keep must be positive"),
        ("source.store=s3://user:secret@host/x", "source.store"),
    ],
)
def test_a_slip_is_named(train_job: JobOf, override: str, said: str) -> None:
    """Errors begin with the key and say what is allowed."""
    with pytest.raises(JobError, match=said.replace("(", r"\(")):
        train_job("training", override)


def test_workers_and_samples_shape_no_training(train_job: JobOf) -> None:
    """They may change when a training is resumed; all else may not."""
    same = train_job("b", "cluster.workers=2", "sampling.count=1", "output.checkpoint_every=3")
    assert same.identity == train_job("a").identity
    for other in ("source.seed=1", "model.depth=3", "optimiser.lr=0.1", "source.batch_size=24"):
        assert train_job("a", other).identity != same.identity
