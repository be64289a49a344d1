"""The worker: what an actor is while it lives. It loads once, then runs units."""

from __future__ import annotations

import sys
from threading import Lock

from tokenmill.store.codebooks import has_codebook, put_codebook
from tokenmill.tokenizers.base import HasCodebook
from tokenmill.worker.crew import Crew
from tokenmill.worker.device import Device
from tokenmill.worker.memory import Memory
from tokenmill.worker.prepare import Preparation
from tokenmill.worker.spec import UnitTask, WorkerSpec
from tokenmill.worker.unit import run_unit
from tokenmill_infra.cluster.blackbox import BlackBox, Freeze
from tokenmill_infra.storage import storage_options
from tokenmill_schemas.errors import TransientError
from tokenmill_schemas.job import ClusterConfig
from tokenmill_schemas.snapshot import Receipt

#: Deadlines of an asset after which a process in which nothing moves ends itself: time enough for
#: threads that wait for each other, and for its own watch over assets that let go now and then.
FROZEN_DEADLINES = 1.5


class Worker:
    """Owns an encoder and the threads around it; `run` may be called from several threads."""

    def __init__(self, spec: WorkerSpec) -> None:
        """Load the tokenizer.

        Raises:
            CheckpointError: its weights cannot be loaded.
        """
        self._spec = spec
        device = device_name(spec.gpus)
        with storage_options(spec.storage):
            encoder = spec.tokenizer.load(device)
        tune_torch(spec.cluster, device)
        self._keeping, self._kept = Lock(), False
        self._memory = Memory(spec.limits.asset_memory_bytes)
        self._device = Device(encoder, self._memory)
        self._decoders = Crew(spec.cluster.decode_threads, "tokenmill-decode")
        fetchers = spec.cluster.fetch_threads
        self._fetchers = Crew(fetchers, "tokenmill-fetch") if fetchers else None
        # Only what has a process of its own can be ended, and read about afterwards.
        self._box = BlackBox() if spec.cluster.backend == "ray" else None
        limit = FROZEN_DEADLINES * spec.limits.asset_deadline_s
        self._freeze = Freeze(limit, self._box.path) if self._box else None
        self._preparation = Preparation(
            spec,
            self._decoders,
            self._fetchers,
            streams=self._device.streams,
            box=self._box,
            memory=self._memory,
        )

    @property
    def black_box(self) -> str:
        """The path of the file that tells, after its process has died, what it was doing."""
        return self._box.path if self._box else ""

    def run(self, task: UnitTask) -> Receipt | None:
        """Run one unit, or a trial of some of its rows.

        Raises:
            TransientError: the unit may be tried again.
        """
        try:
            with storage_options(self._spec.storage):
                if task.window is None:
                    self._keep_codebook()
                return run_unit(self._spec, task, self._preparation, self._device)
        except MemoryError as error:
            # Not an asset's and not a batch's: an asset that goes to its limit takes what others
            # need, for the moment until it has been given up.
            raise TransientError(f"no memory was left for the unit: {error}") from error

    def _keep_codebook(self) -> None:
        """See, before the first shard, that the store has what its ids stand for."""
        with self._keeping:
            encoder, spec = self._device.encoder, self._spec
            if self._kept or not isinstance(encoder, HasCodebook):
                return
            if spec.fingerprint and not has_codebook(spec.store, spec.fingerprint):
                arrays = encoder.codebook()
                if arrays:
                    put_codebook(spec.store, spec.fingerprint, arrays)
            self._kept = True

    def close(self) -> None:
        """Free the device and let the threads go."""
        self._device.close()
        self._decoders.close()
        if self._fetchers is not None:
            self._fetchers.close()
        self._memory.close()
        if self._box is not None and self._freeze is not None:
            self._freeze.close()
            self._box.close()


def device_name(gpus: float) -> str:
    """Return ``cuda`` for an actor that was given a GPU that torch can use, else ``cpu``."""
    if gpus <= 0:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tune_torch(cluster: ClusterConfig, device: str) -> None:
    """Set thread count and exactness, for tokenizers that loaded torch; others need none."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    torch.set_num_threads(cluster.torch_threads)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = cluster.allow_tf32
        torch.backends.cudnn.allow_tf32 = cluster.allow_tf32
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
