"""Checkpoints: one safetensors file each, so that one is there whole or not at all.

``checkpoints/000001000.safetensors`` has the tensors ``model.*``, ``ema.*`` and
``optimiser.<parameter>.*``, and in its header, as JSON under "tokenmill", all the rest: the step,
the feed's state, what shaped the training, and its loss so far. Nothing is pickled, and nothing in
it depends on the number of workers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from tokenmill.store.identity import differences
from tokenmill_infra.storage import Storage, scratch
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.strict import build

FOLDER = "checkpoints"
SUFFIX = ".safetensors"
FORMAT = 1
#: Bytes before a safetensors file's header: its length, little-endian.
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a training without a stop; ``cpu_s`` is processor time of all its workers."""

    first: int
    last: int
    workers: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """All of a checkpoint that is no tensor.

    ``curve`` has (step, mean loss since the last point). ``classes`` are the values of the
    condition, in the order of their numbers. ``snapshot`` is the reference of the store's version.
    """

    step: int
    identity: dict[str, Any]
    snapshot: str
    fingerprint: str
    classes: tuple[Any, ...]
    feed: dict[str, Any]
    curve: tuple[tuple[int, float], ...] = ()
    legs: tuple[Leg, ...] = field(default_factory=tuple)
    format: int = FORMAT

    def after(self, **changes: Any) -> Progress:
        """Return it with changes."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint as it was read."""

    progress: Progress
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors below ``name``, without it."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def steps_of(storage: Storage) -> list[int]:
    """Return the steps of which there are checkpoints, oldest first."""
    names = (entry.path.rpartition("/")[2] for entry in storage.list(FOLDER))
    stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def path_of(step: int) -> str:
    """Return where the checkpoint of a step lies."""
    return f"{FOLDER}/{step:09d}{SUFFIX}"


def save(storage: Storage, progress: Progress, tensors: Mapping[str, Tensor], *, keep: int) -> None:
    """Write a checkpoint, then delete all but the newest ``keep``.

    Raises:
        JobError: there is one of this step: another training writes to the same place.
    """
    with scratch(storage) as folder:
        file = folder / "checkpoint"
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        rest = canonical_json(asdict(progress)).decode()
        save_file(plain, file, metadata={"tokenmill": rest})
        try:
            storage.create_from(path_of(progress.step), file)
        except FileExistsError as error:
            raise JobError(
                f"{storage.uri} has a checkpoint of step {progress.step} of another training; "
                "only one may write there",
                path="output.uri",
            ) from error
    for step in steps_of(storage)[:-keep]:
        storage.delete(path_of(step))


def newest(storage: Storage) -> Checkpoint | None:
    """Return the newest checkpoint, None if there is none.

    Raises:
        CheckpointError: it cannot be read, or is of another format.
    """
    steps = steps_of(storage)
    return read(storage, steps[-1]) if steps else None


def read(storage: Storage, step: int) -> Checkpoint:
    """Return the checkpoint of a step.

    Raises:
        CheckpointError: it cannot be read, or is of another format.
    """
    path = path_of(step)
    data = storage.read(path)
    try:
        return Checkpoint(_progress(_header(data)), load(data))
    except (SafetensorError, struct.error, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{storage.uri.rstrip('/')}/{path} is no checkpoint of a training: {error}; delete it "
            "to go on from the one before",
            path="output.uri",
        ) from error


def _header(data: bytes) -> dict[str, Any]:
    (length,) = LENGTH.unpack_from(data)
    header = json.loads(data[LENGTH.size : LENGTH.size + length])
    found: dict[str, Any] = json.loads(header["__metadata__"]["tokenmill"])
    return found


def _progress(found: dict[str, Any]) -> Progress:
    if found.get("format") != FORMAT:
        raise ValueError(f"its format is {found.get('format')!r}, this library reads {FORMAT}")
    try:
        return build(Progress, found, path="checkpoint")
    except JobError as error:
        raise ValueError(str(error)) from error


def check_same(progress: Progress, identity: Mapping[str, Any], *, uri: str) -> None:
    """Check that a training of ``identity`` may go on from a checkpoint.

    Raises:
        JobError: it was shaped by other settings; names them all.
    """
    apart = differences(progress.identity, dict(identity))
    if apart:
        raise JobError(
            f"{uri} holds a checkpoint of another training: {'; '.join(apart)}. Take the settings "
            "that made it, or another output",
            path="output.uri",
        )


def optimiser_tensors(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state by the names of its parameters."""
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in network.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    network: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` returned."""
    for name, parameter in network.named_parameters():
        prefix = f"{name}."
        own = {k: v for k, v in tensors.items() if k.rpartition(".")[0] + "." == prefix}
        optimiser.state[parameter] = {
            # AdamW keeps its count of steps on the host.
            key.removeprefix(prefix): value.clone()
            if key.endswith(".step")
            else value.to(parameter.device, copy=True)
            for key, value in own.items()
        }
