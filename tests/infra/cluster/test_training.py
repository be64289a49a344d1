import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tokenmill.testing.workers import die, fail, tell
from tokenmill_infra.cluster import ClusterError
from tokenmill_infra.cluster.training import WorkerGroup, portable, run_workers
from tokenmill_schemas.errors import JobError, StoreError

TWO = WorkerGroup(workers=2)
#: The cluster of tests counts GPUs that are not there.
ON_RAY = WorkerGroup(workers=2, backend="ray", gpus=0.0)


def no_words(facts: Mapping[str, Any]) -> None:
    """For workers that say nothing."""
    raise AssertionError(facts)


def test_one_worker_is_this_process_with_the_threads_it_was_given() -> None:
    """It says what it says at once, and torch has its own threads back afterwards."""
    import torch

    before = torch.get_num_threads()
    heard: list[Mapping[str, Any]] = []
    run_workers(tell, 5, WorkerGroup(torch_threads=3), heard.append)
    assert heard == [{"rank": 0, "total": 5, "threads": 3}]
    assert torch.get_num_threads() == before


def test_an_error_of_the_only_worker_is_raised_as_it_is() -> None:
    """With its own traceback."""
    with pytest.raises(LookupError, match="plain"):
        run_workers(fail, "plain", WorkerGroup(), no_words)


def test_two_workers_are_processes_that_add_up() -> None:
    """Both are heard before the call returns."""
    heard: list[Mapping[str, Any]] = []
    run_workers(tell, 10, TWO, heard.append)
    assert sorted(facts["rank"] for facts in heard) == [0, 1]
    assert {facts["total"] for facts in heard} == {21}


@pytest.mark.parametrize(
    ("work", "config", "error", "said"),
    [
        (fail, "own", StoreError, "somewhere: is gone"),
        (die, 0, ClusterError, r"training worker 1 of 2 died \(exit code -9\)"),
    ],
)
def test_a_worker_that_fails_or_dies_ends_the_others(
    work: Any, config: Any, error: type[Exception], said: str
) -> None:
    """What it raised is raised here, and no process is left."""
    with pytest.raises(error, match=said):
        run_workers(work, config, TWO, no_words)
    deadline = time.monotonic() + 10
    while _workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _workers() == []


def _workers() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_strange_error_crosses_in_words() -> None:
    """Of any class, also one that does not pickle; with where it was raised."""

    class StrangeError(Exception):
        pass

    try:
        raise StrangeError("odd")
    except StrangeError as error:
        told = portable(error, 3)
    assert isinstance(told, ClusterError)
    assert "training worker 3 failed: StrangeError: odd at test_training.py:" in str(told)
    own = JobError("x", path="a.b")
    assert portable(own, 0) is own


def test_a_gpu_that_is_not_there_is_asked_for_in_vain() -> None:
    """It names the key."""
    import torch

    count = torch.cuda.device_count()
    group = WorkerGroup(workers=1, gpus=1.0)
    if count:
        pytest.skip("there is a GPU")
    with pytest.raises(JobError, match=r"cluster\.gpus_per_worker: worker 0 wants a GPU"):
        run_workers(tell, 1, group, no_words)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_trains_two_workers_that_add_up() -> None:
    """Ray Train's process group, words by way of its queue."""
    pytest.importorskip("pandas", reason="ray.train imports it")
    heard: list[Mapping[str, Any]] = []
    run_workers(tell, 10, ON_RAY, heard.append)
    assert sorted(facts["rank"] for facts in heard) == [0, 1]
    assert {facts["total"] for facts in heard} == {21}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_raises_what_a_worker_raised() -> None:
    """Our own error, not Ray's."""
    pytest.importorskip("pandas", reason="ray.train imports it")
    with pytest.raises(StoreError, match="somewhere: is gone"):
        run_workers(fail, "own", ON_RAY, no_words)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_group_that_never_fits_is_refused() -> None:
    """Ray would wait for ever."""
    pytest.importorskip("pandas", reason="ray.train imports it")
    with pytest.raises(JobError, match="9 workers want 9 CPU, the cluster has 4"):
        run_workers(tell, 1, replace(ON_RAY, workers=9), no_words)
