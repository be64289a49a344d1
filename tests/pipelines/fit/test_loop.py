"""The loop: the same weights for the same job, however often it was stopped on the way."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pipelines.cli.conftest import call, command, environment
from tests.pipelines.fit.conftest import JobOf, fitted
from torch import Tensor

from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import open_storage
from tokenmill_pipelines.fit.config import FitJob, fit_job_table
from tokenmill_pipelines.fit.lessons import open_lesson
from tokenmill_pipelines.fit.loop import averaged
from tokenmill_pipelines.fit.run import fit_stage, gather_stage, open_fit_run
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.checkpoint import Checkpoint
from tokenmill_schemas.errors import JobError


class GoneError(Exception):
    """A fit was stopped."""


class Stopper(SilentObserver):
    """Stops a fit after the checkpoint of a step."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def event(self, name: str, /, **fields: Any) -> None:
        """Raise when it is time."""
        if name == "checkpoint" and fields["step"] == self.after:
            raise GoneError


def learned(job: FitJob, *, resume: bool = False, after: int = -1) -> Checkpoint:
    """Gather and learn, perhaps as far as a step only; return the newest checkpoint."""
    run = open_fit_run(job, Stopper(after), resume=resume)
    gather_stage(run)
    if after < 0:
        fit_stage(run)
    else:
        with pytest.raises(GoneError):
            fit_stage(run)
    found = checkpoint.newest(open_storage(job.output.uri))
    assert found is not None
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_fit_is_a_function_of_its_job(fit_job: JobOf) -> None:
    """Run again elsewhere it comes to the same weights; with another seed to others."""
    one, again = learned(fit_job("one")), learned(fit_job("again"))
    other = learned(fit_job("other", seed=1))
    assert same(one.tensors, again.tensors)
    assert one.progress.curve == again.progress.curve
    assert not same(one.part("model"), other.part("model"))
    assert not same(one.part("model"), one.part("ema"))


@pytest.mark.parametrize("after", [2, 4])
def test_a_resumed_fit_is_the_one_that_never_stopped(fit_job: JobOf, after: int) -> None:
    """Weights, their average, the optimiser and the curve: bit for bit."""
    whole = learned(fit_job("whole"))
    job = fit_job(f"stopped{after}")
    assert learned(job, after=after).progress.step == after
    found = learned(job, resume=True)
    assert same(found.tensors, whole.tensors)
    assert found.progress.curve == whole.progress.curve
    assert [(leg.first, leg.last) for leg in found.progress.legs] == [(0, after), (after, 6)]


def test_the_loss_falls(fit_job: JobOf) -> None:
    """Of a few steps on a few pictures."""
    curve = learned(fit_job(optimiser={"steps": 40, "lr": 0.02})).progress.curve
    assert curve[-1][1] < curve[0][1] - 0.1


def test_what_is_shipped_is_half_as_wide_and_all_there(fit_job: JobOf) -> None:
    """The average of what learned, and the rest as it is."""
    job = fit_job()
    found = learned(job)
    lesson = open_lesson(job)
    shipped = averaged(lesson, found.part("ema"))
    assert shipped.keys() == dict(lesson.network.named_parameters()).keys()
    assert {tensor.dtype for tensor in shipped.values()} == {torch.float16}
    for name, value in found.part("ema").items():
        assert torch.equal(shipped[name], value.half())


def test_a_fit_is_not_begun_where_one_is_and_another_jobs_is_not_resumed(fit_job: JobOf) -> None:
    """It says how to go on, and what differs."""
    job = fit_job()
    learned(job)
    with pytest.raises(JobError, match="holds a fit of 6 steps: --resume goes on"):
        learned(job)
    with pytest.raises(JobError, match=r"optimiser\.lr is 0\.004 there and 0\.1 here"):
        learned(fit_job(optimiser={"lr": 0.1}), resume=True)


def test_media_that_have_changed_are_not_resumed_on(fit_job: JobOf, tmp_path: Path) -> None:
    """The job is the same, what it names is not."""
    source = fit_job().data[0].source
    assert source is not None
    listing = Path(source.options["urls"][0])
    here = tmp_path / "listing.jsonl"
    lines = listing.read_text().replace('"uri": "', f'"uri": "{listing.parent}/').splitlines()
    part = {**fit_job_table(fit_job())["data"][0]}
    part["source"] = {"kind": "jsonl", "urls": [str(here)]}
    here.write_text("\n".join(lines))
    learned(fit_job(data=[part]))
    here.write_text("\n".join(lines[:-1]))
    with pytest.raises(JobError, match="holds a fit of other media"):
        learned(fit_job(data=[part]), resume=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_command_goes_on_from_its_newest_checkpoint(
    fit_job: JobOf, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Signals leave whole checkpoints only; the command resumed writes the same weights."""
    wanted = fitted(fit_job("whole", optimiser={"steps": 120}))
    file = tmp_path / "tiny.toml"
    file.write_text(toml_of(pictures))
    sets = [f"output.uri={tmp_path / 'killed'}", f"corpora={tmp_path / 'corpora'}"]
    args = ["fit", str(file), *(word for text in sets for word in ("--set", text))]
    run = subprocess.Popen(
        command(*args), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    storage, deadline = open_storage(str(tmp_path / "killed")), time.monotonic() + 120
    while not checkpoint.steps_of(storage) and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(number)
    told = run.communicate()[1].decode()
    assert run.returncode == (143 if number == signal.SIGTERM else -number), told
    assert ("--resume" in told) == (number == signal.SIGTERM)
    stopped_at = checkpoint.steps_of(storage)[-1]
    assert stopped_at < 120
    done = call(*args, "--resume", "--json")
    assert done.code == 0, done.err
    result = done.document()
    assert (result["resumed_from"], result["steps"]) == (stopped_at, 120)
    assert result["sha256"] == wanted.sha256
    assert call(*args).code == 2


def toml_of(pictures: Path) -> str:
    """The job of ``fit_job`` with more steps, as a file."""
    return f"""
name = "tiny"
held_out = 0.3
tried = 3
[tokenizer]
kind = "mill_image"
[tokenizer.config]
encoder_widths = [8, 8]
encoder_depths = [1, 0]
decoder_widths = [8, 8]
decoder_depths = [0, 1]
levels = [5, 5, 3]
[[data]]
name = "pictures"
source = {{ kind = "jsonl", urls = ["{pictures / "listing.jsonl"}"] }}
view = {{ kind = "native", multiple = 1 }}
[loss]
psnr = 1.0
ssim = 0.3
[batch]
size = 2
side = 32
short_side = [32, 48]
[optimiser]
steps = 120
lr = 4e-3
warmup = 2
ema = 0.8
[output]
uri = "out"
checkpoint_every = 4
log_every = 1
keep = 9
"""
