"""Trainings of the example job in small: learning, resuming, dying, and what is left to look at."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.pipelines.cli.conftest import call, command, environment
from tests.pipelines.train.conftest import (
    CLASSES,
    JOBS,
    PICTURES,
    SHOWN,
    SMALL,
    JobOf,
    tokenize,
    trained,
    write_listing,
)
from torch import Tensor

from tokenmill.store import Store
from tokenmill_infra.cluster.training import Worker
from tokenmill_infra.storage import open_storage
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.config import TrainJob
from tokenmill_pipelines.train.loop import Training, train
from tokenmill_pipelines.train.tokens import look, open_feed
from tokenmill_schemas.errors import JobError, StoreError


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Trainings here are too small to divide."""
    torch.set_num_threads(1)


def left_by(job: TrainJob) -> checkpoint.Checkpoint:
    """The newest checkpoint of a job's output."""
    found = checkpoint.newest(open_storage(job.output.uri))
    assert found is not None
    return found


def stopped(job: TrainJob, after: int) -> None:
    """Train like a worker that is gone after some steps' worth of words."""

    class GoneError(Exception):
        pass

    def say(facts: object) -> None:
        assert isinstance(facts, dict)
        if facts["step"] >= after and "checkpoint" in facts:
            raise GoneError

    with pytest.raises(GoneError):
        train(Worker(0, 1, "cpu", say), Training(job, look(job)))


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal to the bit."""
    assert set(one) == set(other)
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def whole(shapes_store: str, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A training that never stopped."""
    from tokenmill_pipelines.train.config import read_train_job

    output = tmp_path_factory.mktemp("whole") / "training"
    places = (f"source.store={shapes_store}", f"output.uri={output}")
    job = read_train_job(JOBS / "fashion_mnist.toml", overrides=(*SMALL, *places))
    trained(job)
    return job


def test_the_loss_falls_and_the_result_tells_of_it(train_job: JobOf) -> None:
    """From nearly all ids alike to much less; figures add up."""
    result = trained(train_job("a", "optimiser.steps=40", "optimiser.lr=0.01"))
    assert math.log(512) * 0.8 < result.first_loss < math.log(512) * 1.1
    assert result.loss < 0.6 * result.first_loss
    assert (result.steps, result.samples, result.tokens) == (40, 480, 480 * 49)
    assert result.epochs == 480 / SHOWN
    assert result.held_out_loss is not None
    assert abs(result.held_out_loss - result.loss) < 1.0
    assert Path(result.checkpoint).name == "000000040.safetensors"


def test_a_masked_generator_learns_too(train_job: JobOf) -> None:
    """The same loop, another network and other positions scored."""
    job = train_job("m", "model.kind=masked", "optimiser.steps=40", "optimiser.lr=0.01")
    result = trained(job)
    assert result.loss < 0.75 * result.first_loss
    assert result.held_out_loss is not None
    assert result.held_out_loss < 0.75 * result.first_loss
    assert "masked transformer" in Path(result.report).read_text()


def test_a_training_is_a_function_of_its_job(whole: TrainJob, train_job: JobOf) -> None:
    """Run again elsewhere it comes to the same weights; with another seed to others."""
    again, other = train_job("again"), train_job("other", "source.seed=1")
    trained(again)
    trained(other)
    assert differing(left_by(again).tensors, left_by(whole).tensors) == []
    assert differing(left_by(other).tensors, left_by(whole).tensors)


@pytest.mark.parametrize("after", [8, 16])
def test_a_resumed_training_is_the_one_that_never_stopped(
    whole: TrainJob, train_job: JobOf, after: int
) -> None:
    """Weights, their average, the optimiser, the feed and the curve: bit for bit."""
    job = train_job(f"stopped{after}")
    stopped(job, after)
    assert left_by(job).progress.step == after
    result = trained(job, resume=True)
    assert result.resumed_from == after
    mine, theirs = left_by(job), left_by(whole)
    assert differing(mine.tensors, theirs.tensors) == []
    assert mine.progress.curve == theirs.progress.curve
    assert mine.progress.feed == theirs.progress.feed
    assert [(leg.first, leg.last) for leg in mine.progress.legs] == [(0, after), (after, 24)]


def test_a_resumed_training_on_two_workers_sees_the_same_batches(
    whole: TrainJob, train_job: JobOf
) -> None:
    """The ranks' rows joined are those that one worker would have seen; so are the weights."""
    job = train_job("two", "cluster.workers=2")
    stopped(replace(job, cluster=replace(job.cluster, workers=1)), 16)
    state = left_by(job).progress.feed
    shown = look(job)
    places = ((0, 1), (0, 2), (1, 2))
    feeds = [open_feed(job, shown, rank=rank, world_size=world) for rank, world in places]
    for feed in feeds:
        feed.load_state_dict(json.loads(json.dumps(state)))
    for one, left, right in itertools.islice(zip(*feeds, strict=True), 8):
        both = [*left["sample_id"], *right["sample_id"]]
        assert list(one["sample_id"]) == both
        assert np.array_equal(np.concatenate([left["image"], right["image"]]), one["image"])
    result = trained(job, resume=True)
    assert [leg["workers"] for leg in result.legs] == [1, 2]
    mine, theirs = left_by(job), left_by(whole)
    assert mine.progress.feed == theirs.progress.feed
    for name, value in theirs.part("model").items():
        torch.testing.assert_close(mine.part("model")[name], value, rtol=1e-3, atol=2e-5)
    for (_, mine_loss), (_, loss) in zip(mine.progress.curve, theirs.progress.curve, strict=True):
        assert mine_loss == pytest.approx(loss, rel=1e-5)


def test_a_masked_training_is_the_same_on_two_workers(train_job: JobOf) -> None:
    """Ranks score different numbers of ids, and weigh them by the whole batch's."""
    one = train_job("one", "model.kind=masked", "optimiser.steps=6")
    two = train_job("two", "model.kind=masked", "optimiser.steps=6", "cluster.workers=2")
    losses = [trained(job).loss for job in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in left_by(one).part("model").items():
        torch.testing.assert_close(left_by(two).part("model")[name], value, rtol=1e-3, atol=2e-5)


def test_a_killed_training_goes_on_from_its_newest_checkpoint(
    whole: TrainJob, shapes_store: str, tmp_path: Path
) -> None:
    """SIGKILL leaves whole checkpoints only; the command resumed comes to the same weights."""
    output = tmp_path / "killed"
    sets = (*SMALL, f"source.store={shapes_store}", f"output.uri={output}")
    words = [word for text in sets for word in ("--set", text)]
    args = ["train", str(JOBS / "fashion_mnist.toml"), *words]
    run = subprocess.Popen(
        command(*args), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    storage, deadline = open_storage(str(output)), time.monotonic() + 120
    while not checkpoint.steps_of(storage) and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    killed_at = checkpoint.steps_of(storage)[-1]
    assert killed_at < 24
    done = call(*args, "--resume", "--json")
    assert done.code == 0, done.err
    assert done.document()["resumed_from"] == killed_at
    found = checkpoint.newest(storage)
    assert found is not None
    assert differing(found.tensors, left_by(whole).tensors) == []


def test_the_report_shows_the_curve_and_a_picture_of_every_sample(whole: TrainJob) -> None:
    """Of each class by its name, and what the feed stood at; nothing is fetched by the page."""
    (page,) = Path(whole.output.uri, "reports").glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "<polyline" in text
    assert all(f"<b>{name}</b>" in text for name in CLASSES)
    assert text.count('alt="generated"') == len(CLASSES) * whole.sampling.count
    assert text.count('alt="stored"') == len(CLASSES) * 2
    assert text.count("data:image/png;base64,") == len(CLASSES) * 4
    assert "0 to 24" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_finished_training_is_only_looked_at_again(whole: TrainJob) -> None:
    """Resumed without steps left, it writes another report and no checkpoint."""
    before = left_by(whole).progress
    result = trained(whole, resume=True)
    assert result.resumed_from == 24
    assert left_by(whole).progress == before
    assert Path(result.report).exists()


def test_a_training_is_not_begun_where_one_is(whole: TrainJob) -> None:
    """It says how to go on."""
    with pytest.raises(JobError, match="holds a training of 24 steps: --resume goes on"):
        trained(whole)


def test_another_jobs_training_is_not_resumed(whole: TrainJob) -> None:
    """The settings that differ are named."""
    job = replace(whole, model=replace(whole.model, depth=3))
    with pytest.raises(JobError, match=r"model\.depth is 2 there and 3 here"):
        trained(job, resume=True)


def test_a_training_without_classes_draws_from_all(train_job: JobOf) -> None:
    """No condition, no guidance to give: one row of samples without a name."""
    job = train_job("none", 'model.condition=""', "optimiser.steps=4", "sampling.guidance=1.0")
    result = trained(job)
    text = Path(result.report).read_text()
    assert text.count('alt="generated"') == 2
    assert "<figcaption>" not in text


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_ranks_are_shown_the_parts_of_one_batch(train_job: JobOf, kind: str) -> None:
    """Ids, hidden ones, targets and dropped classes: joined they are what one worker is shown."""
    job = train_job("x", f"model.kind={kind}", "model.condition_dropout=0.5")
    shown = look(job)
    whole = list(itertools.islice(open_feed(job, shown), 6))
    for world in (2, 3):
        feeds = [open_feed(job, shown, rank=rank, world_size=world) for rank in range(world)]
        for one, *parts in itertools.islice(zip(whole, *feeds, strict=False), 6):
            for name, values in one.items():
                assert np.array_equal(np.concatenate([part[name] for part in parts]), values)
    assert np.shape(whole[0]["image"]) == (12, 49)
    classes = np.concatenate([batch["class"] for batch in whole])
    assert set(classes.tolist()) == {0, 1, 2, 3}
    hidden = np.stack([batch["image"] for batch in whole]) == shown.layout.ids
    assert hidden.any() == (kind == "masked")
    if kind == "masked":
        targets = np.stack([batch["image.targets"] for batch in whole])
        assert np.array_equal(targets != -100, hidden)
        assert hidden.any(axis=-1).all()
    plain = next(iter(open_feed(job, shown, plain=True)))
    assert 3 not in plain["class"]
    assert "image.mask" not in plain


def test_numbers_are_classes_too(train_job: JobOf) -> None:
    """In their order."""
    assert look(train_job("n", "model.condition=label")).classes == (0, 1, 2)
    assert look(train_job("t")).classes == CLASSES


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("source.stream=depth", "source.stream: the store has no stream 'depth'; it has"),
        ("source.where=splitt = 'train'", "splitt"),
        ("source.held_out=split = 'nothing'", "no samples"),
        ("model.condition=lable", "there is no 'lable'; did you mean 'label'"),
    ],
)
def test_what_the_store_lacks_is_named(train_job: JobOf, override: str, said: str) -> None:
    """Before anything is trained."""
    job = train_job("x", override)
    with pytest.raises((JobError, StoreError), match=said):
        trained(job)
    assert checkpoint.newest(open_storage(job.output.uri)) is None


def test_a_store_that_is_not_there_is_named(train_job: JobOf, tmp_path: Path) -> None:
    """And no output is made."""
    job = train_job("x", f"source.store={tmp_path / 'nowhere'}")
    with pytest.raises(StoreError, match="nowhere"):
        trained(job)
    assert not (tmp_path / "x" / "checkpoints").exists()


def test_a_resumed_training_stays_at_its_version(
    train_job: JobOf, shapes_store: str, tmp_path: Path
) -> None:
    """Also when the store has more samples by then; a new training takes the newest."""
    store = str(tmp_path / "grown")
    shutil.copytree(shapes_store, store)
    job = train_job("v", f"source.store={store}")
    stopped(job, 8)
    tokenize(write_listing(tmp_path / "more.parquet", 0, PICTURES + 20), store)
    assert Store.open(store).snapshot().number == 2
    result = trained(job, resume=True)
    assert (result.snapshot, result.epochs) == ("1", 24 * 12 / SHOWN)
    assert look(job).snapshot == "2"


def test_the_command_says_what_came_out(
    train_job: JobOf, shapes_store: str, tmp_path: Path
) -> None:
    """For people, and one JSON document for scripts; a slip is exit code 2."""
    sets = (*SMALL, "optimiser.steps=4", f"source.store={shapes_store}")
    words = [word for text in (*sets, f"output.uri={tmp_path / 'cli'}") for word in ("--set", text)]
    job = str(JOBS / "fashion_mnist.toml")
    said = call("train", job, *words)
    assert said.code == 0, said.err
    assert "steps" in said.out
    assert "4" in said.out
    assert str(tmp_path / "cli" / "reports") in said.out.replace("\n", "")
    again = call("train", job, *words)
    assert again.code == 2
    assert "--resume" in again.err
    assert call("train", job, *words, "--resume", "--json").document()["resumed_from"] == 4
