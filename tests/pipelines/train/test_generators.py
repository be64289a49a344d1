import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokenmill_pipelines.train.config import ModelConfig, OptimiserConfig, SamplingConfig
from tokenmill_pipelines.train.generators import (
    CausalGenerator,
    Layout,
    MaskedGenerator,
    build_generator,
    groups,
    parameters,
)
from tokenmill_pipelines.train.loop import rate_at
from tokenmill_pipelines.train.sampling import sample

LAYOUT = Layout(ids=11, positions=9, classes=3)
MODEL = ModelConfig(width=16, depth=2, heads=2)


@pytest.fixture
def causal() -> CausalGenerator:
    """A small causal network."""
    network = build_generator(MODEL, LAYOUT, seed=1)
    assert isinstance(network, CausalGenerator)
    return network.eval()


@pytest.fixture
def masked() -> MaskedGenerator:
    """A small masked network."""
    network = build_generator(replace(MODEL, kind="masked"), LAYOUT, seed=1)
    assert isinstance(network, MaskedGenerator)
    return network.eval()


def ids_and_classes(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Four samples."""
    noise = torch.Generator().manual_seed(seed)
    ids = torch.randint(LAYOUT.ids, (4, LAYOUT.positions), generator=noise)
    return ids, torch.tensor([0, 1, 2, 3])


@torch.no_grad()
def test_a_causal_network_does_not_see_what_comes(causal: CausalGenerator) -> None:
    """Changing id j changes the logits after j, and none up to j."""
    ids, classes = ids_and_classes()
    before = causal(ids, classes)
    assert before.shape == (4, LAYOUT.positions, LAYOUT.ids)
    for place in range(LAYOUT.positions - 1):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % LAYOUT.ids
        after = causal(other, classes)
        assert torch.equal(after[:, : place + 1], before[:, : place + 1])
        assert not torch.isclose(after[:, place + 1], before[:, place + 1]).all(-1).any()


@torch.no_grad()
def test_a_masked_network_sees_all_that_is_shown(masked: MaskedGenerator) -> None:
    """Changing the last id changes the first one's logits; so does the class."""
    ids, classes = ids_and_classes()
    before = masked(ids, classes)
    assert before.shape == (4, LAYOUT.positions, LAYOUT.ids)
    other = ids.clone()
    other[:, -1] = LAYOUT.ids  # hidden
    assert not torch.isclose(masked(other, classes)[:, 0], before[:, 0]).all(-1).any()
    assert not torch.isclose(masked(ids, classes.flip(0))[:, 0], before[:, 0]).all(-1).any()


@torch.no_grad()
def test_steps_with_a_cache_give_the_logits_of_the_whole(causal: CausalGenerator) -> None:
    """What sampling computes position by position is what training computes at once."""
    ids, classes = ids_and_classes()
    whole = causal(ids, classes)
    caches = causal.network.caches()
    for place in range(LAYOUT.positions):
        last = ids[:, place - 1] if place else None
        step = causal.step(last, classes, caches, place)
        torch.testing.assert_close(step, whole[:, place], rtol=1e-5, atol=1e-6)


def test_a_cache_takes_one_position_at_a_time(causal: CausalGenerator) -> None:
    """Several at once would see each other's future."""
    caches = causal.network.caches()
    x = torch.zeros(1, 2, MODEL.width)
    causal.network(x, caches)
    with pytest.raises(ValueError, match="one at a time"):
        causal.network(x, caches)


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_are_ids_and_a_function_of_the_seed(kind: str, guidance: float) -> None:
    """All positions are filled, none is the hidden id; another seed draws other ones."""
    network = build_generator(replace(MODEL, kind=kind), LAYOUT, seed=1)  # type: ignore[arg-type]  # a literal
    classes = torch.tensor([0, 1, 2, 2, 3])
    how = SamplingConfig(guidance=guidance, seed=5)
    drawn = sample(network, classes, how)
    assert drawn.shape == (5, LAYOUT.positions)
    assert drawn.dtype == torch.int64
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < LAYOUT.ids
    assert torch.equal(sample(network, classes, how), drawn)
    assert not torch.equal(sample(network, classes, replace(how, seed=6)), drawn)
    assert not torch.equal(sample(network, classes, how, batch=1), drawn)


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 40])
def test_a_masked_sampler_fills_all_in_any_number_of_passes(
    masked: MaskedGenerator, steps: int
) -> None:
    """Also in one pass, and in more passes than there are positions."""
    seen: list[int] = []
    masked.register_forward_pre_hook(
        lambda _, args: seen.append(int((args[0] == LAYOUT.ids).sum(1).max()))
    )
    drawn = sample(masked, torch.tensor([0, 1]), SamplingConfig(steps=steps))
    assert int(drawn.max()) < LAYOUT.ids
    assert seen[0] == LAYOUT.positions
    assert all(later < earlier for earlier, later in itertools.pairwise(seen))
    assert len(seen) <= min(steps, LAYOUT.positions)


@torch.no_grad()
def test_the_best_id_is_drawn_when_no_other_is_let(causal: CausalGenerator) -> None:
    """``top_k`` 1 is greedy whatever the seed: each id is the best after those before it."""
    classes = torch.tensor([0, 1, 2])
    drawn = sample(causal, classes, SamplingConfig(top_k=1))
    assert torch.equal(causal(drawn, classes).argmax(-1), drawn)
    assert torch.equal(sample(causal, classes, SamplingConfig(top_k=1, seed=9)), drawn)


@torch.no_grad()
def test_guidance_weighs_the_class_against_none(causal: CausalGenerator) -> None:
    """Greedy with guidance g takes the best of ``u + g (c - u)``."""
    classes = torch.tensor([0, 1, 2])
    drawn = sample(causal, classes, SamplingConfig(top_k=1, guidance=3.0))
    with_class, without = causal(drawn, classes), causal(drawn, torch.full((3,), LAYOUT.classes))
    assert torch.equal((without + 3 * (with_class - without)).argmax(-1), drawn)


def test_first_weights_are_a_function_of_the_seed_and_leave_torch_alone() -> None:
    """Building a network moves no random state of the process."""
    state = torch.random.get_rng_state()
    one, two, other = (build_generator(MODEL, LAYOUT, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_only_matrices_decay(causal: CausalGenerator) -> None:
    """Embeddings and norms are in the group without decay; nothing is in both or neither."""
    decays, rest = groups(causal, 0.1)
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    counted = sum(p.numel() for group in (decays, rest) for p in group["params"])
    assert counted == parameters(causal)
    assert {id(causal.token.weight), id(causal.network.norm.weight)} <= set(map(id, rest["params"]))
    assert id(causal.network.head.weight) in set(map(id, decays["params"]))


def test_the_rate_rises_then_falls_to_its_end() -> None:
    """Warm-up is linear, the rest a cosine from the rate to its final share."""
    how = OptimiserConfig(steps=110, lr=1.0, warmup=10, final_lr=0.1)
    rates = [rate_at(step, how) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
