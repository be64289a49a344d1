"""Drawing samples: one id after another with a cache, or all at once in a few passes.

Both draw from the same seed the same ids. With guidance g the logits are ``u + g (c - u)`` of the
network with its class and without (Ho and Salimans, arXiv:2207.12598).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenmill.feed.sequence.permutation import derive_key
from tokenmill_pipelines.train.config import SamplingConfig
from tokenmill_pipelines.train.generators import CausalGenerator, Generator, MaskedGenerator


@torch.no_grad()
def sample(network: Generator, classes: Tensor, how: SamplingConfig, *, batch: int = 0) -> Tensor:
    """Return ids ``int64[B, N]`` for classes ``int64[B]``; other ones for each ``batch``."""
    seed = derive_key("sample", how.seed, batch) % 2**63
    noise = torch.Generator(classes.device).manual_seed(seed)
    network.eval()
    if isinstance(network, CausalGenerator):
        return _one_by_one(network, classes, how, noise)
    return _all_at_once(network, classes, how, noise)


def _guided(logits: Tensor, guidance: float) -> Tensor:
    """Return the logits of the first half, pushed away from those of the second."""
    if guidance == 1:
        return logits
    with_class, without = logits.chunk(2)
    return without + guidance * (with_class - without)


def _doubled(network: Generator, classes: Tensor, guidance: float) -> Tensor:
    if guidance == 1:
        return classes
    return torch.cat([classes, torch.full_like(classes, network.layout.classes)])


def _twice(ids: Tensor, guidance: float) -> Tensor:
    return ids if guidance == 1 else ids.repeat(2, *(1,) * (ids.ndim - 1))


def _narrowed(logits: Tensor, how: SamplingConfig) -> Tensor:
    """Return logits by the temperature, all but the ``top_k`` best ones impossible."""
    logits = logits.float() / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        least = logits.topk(how.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    return logits


def _drawn(logits: Tensor, noise: torch.Generator) -> Tensor:
    """Draw ids ``[...]`` from logits ``[..., V]``."""
    chances = logits.softmax(-1)
    flat = torch.multinomial(chances.view(-1, chances.shape[-1]), 1, generator=noise)
    return flat.view(chances.shape[:-1])


def _one_by_one(
    network: CausalGenerator, classes: Tensor, how: SamplingConfig, noise: torch.Generator
) -> Tensor:
    both = _doubled(network, classes, how.guidance)
    caches = network.network.caches()
    ids: list[Tensor] = []
    for place in range(network.layout.positions):
        last = _twice(ids[-1], how.guidance) if ids else None
        logits = _guided(network.step(last, both, caches, place), how.guidance)
        ids.append(_drawn(_narrowed(logits, how), noise))
    return torch.stack(ids, dim=1)


def _all_at_once(
    network: MaskedGenerator, classes: Tensor, how: SamplingConfig, noise: torch.Generator
) -> Tensor:
    """Fill in all hidden ids, keep those that are most sure, and do the rest again."""
    hidden_id, length = network.layout.ids, network.layout.positions
    both = _doubled(network, classes, how.guidance)
    ids = torch.full((len(classes), length), hidden_id, device=classes.device)
    left = length
    for number in range(1, how.steps + 1):
        hidden = ids == hidden_id
        logits = _guided(network(_twice(ids, how.guidance), both), how.guidance)
        logits = _narrowed(logits, how)
        guess = _drawn(logits, noise)
        filled = torch.where(hidden, guess, ids)
        left = min(_left(number / how.steps, length), left - 1)  # at least one a pass
        if left == 0:
            return filled
        sure = logits.log_softmax(-1).gather(-1, guess[..., None])[..., 0]
        sure = sure + how.choice_temperature * (1 - number / how.steps) * _gumbel(sure, noise)
        # What is known already is never hidden again.
        sure = sure.masked_fill(~hidden, math.inf)
        unsure = sure.topk(left, dim=1, largest=False).indices
        ids = filled.scatter(1, unsure, hidden_id)
    return ids


def _left(done: float, length: int) -> int:
    """Return how many ids stay hidden after ``done`` of the passes: MaskGIT's cosine schedule."""
    return 0 if done == 1 else math.floor(length * math.cos(math.pi / 2 * done))


def _gumbel(like: Tensor, noise: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=noise, device=like.device)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
