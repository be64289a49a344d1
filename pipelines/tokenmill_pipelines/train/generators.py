"""Two reference generators of visual tokens: causal as LlamaGen, masked as MaskGIT.

Both take ids ``int64[B, N]`` in raster order (whatever the axes of the stream) behind one token of
the class, and give logits ``float[B, N, V]``. They differ in what a position sees and in what is
scored: `corrupt` says what a network is shown of a sample, and which positions count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenmill.feed.draw import Draw
from tokenmill_pipelines.train.config import ModelConfig
from tokenmill_pipelines.train.transformer import Cache, Transformer, initialise

Ids = npt.NDArray[np.int64]
Kind = Literal["causal", "masked"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What the tokens are: ``ids`` to choose from, ``positions`` a sample, ``classes`` to name.

    The class number ``classes`` stands for none.
    """

    ids: int
    positions: int
    classes: int


class CausalGenerator(nn.Module):
    """Predicts each id from those before it: LlamaGen, arXiv:2406.06525."""

    def __init__(self, layout: Layout, model: ModelConfig) -> None:
        super().__init__()
        self.layout = layout
        self.token = nn.Embedding(layout.ids, model.width)
        self.label = nn.Embedding(layout.classes + 1, model.width)
        self.position = nn.Embedding(layout.positions, model.width)
        self.network = Transformer(
            model.width, model.depth, model.heads, ids=layout.ids, causal=True
        )
        initialise(self, model.depth)

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return logits of position i from the class and the ids before i; the last is not seen."""
        x = torch.cat([self.label(classes)[:, None], self.token(ids[:, :-1])], dim=1)
        logits: Tensor = self.network(x + self.position.weight)
        return logits

    def step(self, ids: Tensor | None, classes: Tensor, caches: list[Cache], place: int) -> Tensor:
        """Return logits ``float[B, V]`` of position ``place`` from the id before it, and caches."""
        x = self.label(classes) if ids is None else self.token(ids)
        logits: Tensor = self.network((x + self.position.weight[place])[:, None], caches)
        return logits[:, 0]


class MaskedGenerator(nn.Module):
    """Predicts hidden ids from all others: MaskGIT, Chang et al., arXiv:2202.04200.

    The id ``layout.ids`` stands for a hidden one.
    """

    def __init__(self, layout: Layout, model: ModelConfig) -> None:
        super().__init__()
        self.layout = layout
        self.token = nn.Embedding(layout.ids + 1, model.width)
        self.label = nn.Embedding(layout.classes + 1, model.width)
        self.position = nn.Embedding(layout.positions + 1, model.width)
        self.network = Transformer(
            model.width, model.depth, model.heads, ids=layout.ids, causal=False
        )
        initialise(self, model.depth)

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return logits of every position from all that are shown."""
        x = torch.cat([self.label(classes)[:, None], self.token(ids)], dim=1)
        logits: Tensor = self.network(x + self.position.weight)
        return logits[:, 1:]


Generator = CausalGenerator | MaskedGenerator


def build_generator(model: ModelConfig, layout: Layout, *, seed: int) -> Generator:
    """Return a new network; its first weights are a function of ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (CausalGenerator if model.kind == "causal" else MaskedGenerator)(layout, model)


def corrupt(kind: Kind, ids: Ids, layout: Layout, draw: Draw) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Return what the network is shown of samples, and which of its guesses are scored.

    A masked generator has the share cos(pi u / 2) of a sample's ids hidden, u uniform (at least
    one), and is scored there; a causal one sees all that is before and is scored everywhere.
    """
    if kind == "causal":
        return ids, np.ones(ids.shape, np.bool_)
    mask = draw.permutations("mask/order", layout.positions) < _hidden(layout, draw)
    return np.where(mask, layout.ids, ids), mask


def scored(kind: Kind, layout: Layout, draw: Draw) -> int:
    """Return how many guesses of the drawn samples are scored, without looking at them."""
    if kind == "causal":
        return draw.rows * layout.positions
    return int(_hidden(layout, draw).sum())


def _hidden(layout: Layout, draw: Draw) -> Ids:
    """Return how many ids of each sample are hidden: ``int64[B, 1]``."""
    share = np.cos(np.pi / 2 * draw.uniform("mask/share"))
    return np.asarray(np.maximum(1, np.ceil(share * layout.positions)), np.int64)


def drop_classes(classes: Ids, share: float, layout: Layout, draw: Draw) -> Ids:
    """Return classes ``int64[B]`` of which ``share`` became none."""
    dropped = draw.uniform("class/drop")[:, 0] < share
    return np.where(dropped, layout.classes, classes)


def parameters(network: nn.Module) -> int:
    """Return how many numbers are learned."""
    return sum(parameter.numel() for parameter in network.parameters())


def groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups: matrices decay; embeddings and norms do not."""
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    decays: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in network.parameters():
        matrix = parameter.ndim > 1 and id(parameter) not in embeddings
        (decays if matrix else rest).append(parameter)
    return [
        {"params": decays, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
