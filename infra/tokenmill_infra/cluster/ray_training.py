"""Training workers over Ray Train: processes on any machines of a cluster, started again if lost.

Ray Train places them and makes their process group. It is asked for nothing else: checkpoints are
the function's own, so the folder that Ray Train insists on is a temporary one.
"""

from __future__ import annotations

import importlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.util.queue import Empty, Queue

from tokenmill_infra.cluster import ray_backend
from tokenmill_infra.cluster.pool import ClusterError
from tokenmill_infra.cluster.training import Say, Worker, WorkerGroup, threads
from tokenmill_schemas.errors import JobError, TokenmillError

T = TypeVar("T")

#: How long a listener waits for a word before it looks whether the training has ended.
LISTEN_S = 0.25
#: For Ray Train: no callbacks of others, no metrics of its own, workers' prints as they are.
TRAIN_ENV = {"RAY_TRAIN_METRICS_ENABLED": "0", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


def run_on_ray(work: Callable[[Worker, T], None], config: T, group: WorkerGroup, say: Say) -> None:
    """Run ``work(worker, config)`` in every worker of a group of Ray's.

    Raises:
        JobError: no cluster answers, or it has no room, or Ray Train is not installed.
        TokenmillError: whatever a worker raised.
        ClusterError: workers died more often than allowed, or raised something else.
    """
    try:
        importlib.import_module("ray.train.torch")
    except ImportError as error:
        text = f"Ray Train is not whole: {error}; install pandas, or use backend 'local'"
        raise JobError(text, path="cluster.backend") from error
    env = {"OMP_NUM_THREADS": str(group.torch_threads), **TRAIN_ENV}
    with ray_backend.environment(TRAIN_ENV):
        owns = ray_backend.connect(group.address, env=env)
        try:
            gpus = _gpus(group)
            _check_room(group, gpus)
            _fit(work, config, group, (say, gpus))
        finally:
            if owns:
                ray_backend.disconnect()


def _gpus(group: WorkerGroup) -> float:
    there = ray_backend.resources().get("GPU", 0.0)
    return group.gpus if group.gpus >= 0 else float(there >= group.workers)


def _check_room(group: WorkerGroup, gpus: float) -> None:
    """Refuse a group that the cluster can never hold, for which Ray would wait.

    Raises:
        JobError: it has too few cores or GPUs.
    """
    there = ray_backend.resources()
    for name, each in (("CPU", group.cpus), ("GPU", gpus)):
        wanted, found = group.workers * each, there.get(name, 0.0)
        if wanted > found:
            text = f"{group.workers} workers want {wanted:g} {name}, the cluster has {found:g}"
            raise JobError(text, path="cluster.workers")


def _fit(
    work: Callable[[Worker, T], None], config: T, group: WorkerGroup, how: tuple[Say, float]
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    say, gpus = how
    each = {"CPU": group.cpus} | ({"GPU": gpus} if gpus else {})
    scaling = ScalingConfig(num_workers=group.workers, use_gpu=gpus > 0, resources_per_worker=each)
    with tempfile.TemporaryDirectory(prefix="tokenmill-train-") as folder, _heard(say) as words:
        loop = {"work": work, "config": config, "words": words, "threads": group.torch_threads}
        run = RunConfig(
            name="train",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=group.max_failures),
        )
        trainer = TorchTrainer(
            _loop, train_loop_config=loop, scaling_config=scaling, run_config=run
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error


def _loop(loop: Mapping[str, Any]) -> None:
    """Be one worker, as Ray Train starts it: its process group is there already."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    on = str(ray.train.torch.get_device())
    words: Queue = loop["words"]
    worker = Worker(
        context.get_world_rank(),
        context.get_world_size(),
        on,
        lambda facts: words.put_nowait(dict(facts)),
    )
    with threads(loop["threads"]):
        loop["work"](worker, loop["config"])


@contextmanager
def _heard(say: Say) -> Iterator[Queue]:
    """Give a queue whose words are passed to ``say`` while the block runs."""
    words = Queue(actor_options={"num_cpus": 0})
    done = threading.Event()

    def listen() -> None:
        while True:
            ended = done.is_set()  # asked first: what was said before is heard below
            try:
                say(words.get(timeout=LISTEN_S))
            except Empty:
                if ended:
                    return
            except ray.exceptions.RayError:
                return  # the cluster is gone, and `fit` says so

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield words
    finally:
        done.set()
        listener.join()
        words.shutdown(force=True)


def _cause(error: Exception) -> TokenmillError:
    """Return what a worker raised, or in words how the group failed."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        inner: BaseException | None = failures[rank]
        while inner is not None:
            if isinstance(inner, TokenmillError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ClusterError(f"training failed: {lines[-1] if lines else type(error).__name__}")
