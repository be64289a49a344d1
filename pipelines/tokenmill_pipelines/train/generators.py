"""Two reference generators of visual tokens: causal as LlamaGen, masked as MaskGIT.

Both take ids ``int64[B, N]`` in raster order (whatever the axes of the stream) behind one token of
the class, and give logits ``float[B, N, V]``. They differ in what a position sees, and in which
guesses are scored: all of a causal network's, of a masked one's those that the feed has hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenmill_pipelines.train.config import ModelConfig
from tokenmill_pipelines.train.transformer import Cache, Transformer, initialise


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
