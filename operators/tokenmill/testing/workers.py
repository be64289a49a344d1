"""Functions for training workers, importable by name: workers that tell, fail and die."""

from __future__ import annotations

import os
import signal

from tokenmill_infra.cluster.training import Worker
from tokenmill_schemas.errors import StoreError


def tell(worker: Worker, config: int) -> None:
    """Say who one is, and the sum of ``config + rank`` over all workers, by their process group."""
    import torch

    total = torch.tensor([config + worker.rank])
    if worker.world_size > 1:
        torch.distributed.all_reduce(total)
    threads = torch.get_num_threads()
    worker.say({"rank": worker.rank, "total": int(total), "threads": threads})


def fail(worker: Worker, config: str) -> None:
    """Let the last worker raise; the others wait for it for ever."""
    if worker.rank == worker.world_size - 1:
        if config == "own":
            raise StoreError("is gone", uri="somewhere")
        raise LookupError(config)
    _wait()


def die(worker: Worker, config: int) -> None:
    """Let the last worker be killed; the others wait for it for ever."""
    del config
    if worker.rank == worker.world_size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _wait()


def _wait() -> None:
    signal.pause()
