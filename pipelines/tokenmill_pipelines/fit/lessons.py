"""How each network learns: what it is shown, and what its answer is measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenmill.plugins import open_operator
from tokenmill.tokenizers.describe import Weights
from tokenmill.tokenizers.networks.mill_image import MillImageNetwork
from tokenmill.tokenizers.networks.mill_prefix import MillPrefixNetwork
from tokenmill.tokenizers.networks.mill_shape import MillShapeNetwork
from tokenmill.tokenizers.networks.mill_video import MillVideoNetwork
from tokenmill_pipelines.fit.batches import Kind
from tokenmill_pipelines.fit.config import FitJob, LossConfig, located
from tokenmill_pipelines.fit.losses import picture_loss, volume_loss
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import OperatorConfig

Samples = npt.NDArray[Any]
#: From a network, its samples on the device, the loss wanted and random numbers to a loss.
Score = Callable[[Any, Tensor, LossConfig, np.random.Generator], Tensor]
#: Share of the pictures of a step that are drawn from all their ids, not from a prefix.
WHOLE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Lesson:
    """A network, what it takes, and how its loss comes about.

    ``frozen`` are prefixes of parameters that do not learn.
    """

    network: nn.Module
    takes: Kind
    score: Score
    frozen: tuple[str, ...] = ()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what learns, by name."""
        named = self.network.named_parameters()
        return {name: p for name, p in named if not name.startswith(self.frozen or ("\0",))}


def open_lesson(job: FitJob) -> Lesson:
    """Return the network that a job is about, with weights of its seed or of its checkpoint.

    Raises:
        JobError: the tokenizer does not learn here.
        CheckpointError: the weights that it starts with cannot be read.
    """
    tokenizer = open_tokenizer(located(job.tokenizer, job.base))
    if not hasattr(tokenizer, "network"):
        raise JobError("has no network that could learn", path="tokenizer.kind")
    torch.manual_seed(job.seed)
    network = tokenizer.network()
    for kind, (takes, score, frozen) in _LESSONS.items():
        if isinstance(network, kind):
            _begin(tokenizer, network)
            return Lesson(network, takes, score, frozen)
    raise JobError("this network has no lesson: only those trained here do", path="tokenizer.kind")


def open_tokenizer(config: OperatorConfig) -> Any:
    """Return the tokenizer of a section, untyped: beside its description it has a network."""
    options = dict(config.options)
    return open_operator("tokenmill.tokenizers", config.kind, options, path="tokenizer")


def _begin(tokenizer: Any, network: nn.Module) -> None:
    """Fill a network, or parts of it, with the weights that it starts from, if there are any."""
    for part, weights in _start_of(tokenizer).items():
        weights.load_into(network.get_submodule(part))


def _start_of(tokenizer: Any) -> dict[str, Weights]:
    """Return the weights that a network starts from by the names of its parts; "" is all of it."""
    if tokenizer.checkpoint:
        return {"": tokenizer.weights}
    start: dict[str, Weights] = getattr(tokenizer, "start", {})
    return start


def start_of(job: FitJob) -> dict[str, Any]:
    """Return which weights a job's network starts from, by part; empty if all are its seed's.

    Raises:
        CheckpointError: they are not there.
    """
    tokenizer = open_tokenizer(located(job.tokenizer, job.base))
    if not hasattr(tokenizer, "network"):
        return {}
    return {part: weights.identity for part, weights in _start_of(tokenizer).items()}


def pixels(samples: Tensor) -> Tensor:
    """Return values in [-1, 1], channels second, of ``uint8[..., H, W, 3]`` or clips of that."""
    return (samples.float() / 127.5 - 1).movedim(-1, 1)


def _picture(
    network: MillImageNetwork, samples: Tensor, loss: LossConfig, rng: np.random.Generator
) -> Tensor:
    del rng
    wanted = pixels(samples)
    return picture_loss(network(wanted), wanted, loss)


def _prefix(
    network: MillPrefixNetwork, samples: Tensor, loss: LossConfig, rng: np.random.Generator
) -> Tensor:
    wanted = pixels(samples)
    config = network.config
    low, high = np.log(config.min_prefix), np.log(config.count + 1)
    lengths = np.exp(rng.uniform(low, high, len(samples))).astype(np.int64)
    lengths[rng.random(len(samples)) < WHOLE_SHARE] = config.count
    made = network(wanted, torch.from_numpy(lengths).to(wanted.device))
    return picture_loss(made, wanted, loss)


def _clip(
    network: MillVideoNetwork, samples: Tensor, loss: LossConfig, rng: np.random.Generator
) -> Tensor:
    del rng
    wanted = pixels(samples)
    made = network(wanted)
    later = (slice(None), slice(None), slice(1, None))
    frames = [clip[later].movedim(2, 1).flatten(0, 1) for clip in (made, wanted)]
    return picture_loss(frames[0], frames[1], loss)


def _volume(
    network: MillShapeNetwork, samples: Tensor, loss: LossConfig, rng: np.random.Generator
) -> Tensor:
    del rng
    wanted = samples[:, None].float()
    return volume_loss(network(wanted), wanted, loss)


_LESSONS: dict[type[nn.Module], tuple[Kind, Score, tuple[str, ...]]] = {
    MillImageNetwork: ("image", cast("Score", _picture), ()),
    MillPrefixNetwork: ("image", cast("Score", _prefix), ()),
    MillVideoNetwork: ("clip", cast("Score", _clip), ("picture.",)),
    MillShapeNetwork: ("voxels", cast("Score", _volume), ()),
}
