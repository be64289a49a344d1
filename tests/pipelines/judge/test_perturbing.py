"""Replaced ids: how many, by what, and always the same."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipelines.judge.memory import Means, picture

from tokenmill.feed.shaping.implicit import fsq_digits
from tokenmill.feed.shaping.neighbours import nearest_codes
from tokenmill.tokenizers import open_tokenizer
from tokenmill_pipelines.judge.curves import PerturbedTally
from tokenmill_pipelines.judge.features import Filters
from tokenmill_pipelines.judge.items import Coded, Item, code
from tokenmill_pipelines.judge.measuring import Original
from tokenmill_pipelines.judge.perturbing import NEAR, Perturbation, fsq_levels, step
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

PATCHES = open_tokenizer("patch_vq")
IDS = np.random.default_rng(0).integers(0, 4096, (1, 40, 50), dtype=np.uint16)


@pytest.fixture(scope="module")
def made() -> Perturbation:
    """Of the shipped quantizer, which has a codebook."""
    return Perturbation(PATCHES.load(), PATCHES.spec(None))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_a_step_is_one_level_in_one_dimension(levels: list[int], seed: int) -> None:
    """Ids stay ids; dimensions of one level are left alone."""
    draw = np.random.default_rng(seed)
    sizes = (*levels, 3)
    ids = draw.integers(0, math.prod(sizes), 50)
    moved = step(ids, sizes, draw)
    apart = np.abs(fsq_digits(moved, sizes) - fsq_digits(ids, sizes))
    assert moved.min() >= 0
    assert moved.max() < math.prod(sizes)
    assert (apart.sum(axis=-1) == 1).all()


def test_near_ids_are_among_the_nearest(made: Perturbation) -> None:
    """As the table of the feed's own transform says."""
    assert made.modes == ("near", "random")
    assert made.how("near") == f"one of its {NEAR} nearest codes"
    out = made.apply({"image": IDS}, "near", 1.0, key="a")["image"]
    encoder: Any = PATCHES.load()
    table = nearest_codes(encoder.codebook()["image"], NEAR)
    assert (table[IDS.ravel()] == out.ravel()[:, None]).any(axis=1).all()
    assert out.dtype == IDS.dtype


def test_rates_are_kept_and_nested(made: Perturbation) -> None:
    """What is replaced at a rate is replaced at every higher one, by the same id."""
    found = [
        made.apply({"image": IDS}, "random", r, key="a")["image"] for r in (0.0, 0.1, 0.4, 1.0)
    ]
    assert np.array_equal(found[0], IDS)
    assert (found[-1] != IDS).all()
    shares = [float((one != IDS).mean()) for one in found]
    assert shares == pytest.approx([0, 0.1, 0.4, 1], abs=0.03)
    for lower, higher in itertools.pairwise(found):
        assert (higher[lower != IDS] == lower[lower != IDS]).all()


def test_draws_follow_from_seed_and_key(made: Perturbation) -> None:
    """Equal ones repeat, others do not; the tokens that are given are left alone."""
    before, spec = IDS.copy(), PATCHES.spec(None)

    def drawn(seed: int, key: str) -> Any:
        change = Perturbation(Means(), spec, seed=seed)
        return change.apply({"image": IDS}, "random", 0.5, key=key)["image"].tobytes()

    assert drawn(0, "a") == made.apply({"image": IDS}, "random", 0.5, key="a")["image"].tobytes()
    assert len({drawn(0, "a"), drawn(0, "b"), drawn(1, "a")}) == 3
    assert np.array_equal(IDS, before)


def test_bits_flip_one_at_a_time() -> None:
    """A near binary code has one other bit; latents without ids have no way at all."""
    spec = TokenSpec((Stream("code", "bits", (Axis("n"),), width_bits=6),))
    made = Perturbation(Means(), spec)
    values = np.random.default_rng(0).integers(0, 2, (1, 30, 6), dtype=np.uint8)
    out = made.apply({"code": values}, "near", 1.0, key="a")["code"]
    assert ((out != values).sum(axis=-1) == 1).all()
    assert made.how("near") == "the code with one bit flipped"
    latent = TokenSpec((Stream("z", "float", (Axis("n"),), channels=2, dtype="float32"),))
    assert Perturbation(Means(), latent).modes == ()


def test_several_books_keep_their_sizes() -> None:
    """A random id is one of its own book; without codes nothing is near."""
    axes = (Axis("n"), Axis("depth", 2))
    made = Perturbation(Means(), TokenSpec((Stream("ids", "index", axes, vocab_sizes=(4, 300)),)))
    assert made.modes == ("random",)
    ids = np.random.default_rng(0).integers(0, (4, 300), (1, 200, 2)).astype(np.uint16)
    out = made.apply({"ids": ids}, "random", 1.0, key="")["ids"]
    assert (out != ids).all()
    assert out[..., 0].max() < 4 <= out[..., 1].max() < 300


def test_levels_come_from_the_architecture() -> None:
    """Where they make up the vocabulary, and nowhere else."""
    spec = TokenSpec((Stream("image", "index", (Axis("n"),), vocab_sizes=(40,)),))
    tokenizer: Any = SimpleNamespace(architecture=SimpleNamespace(levels=(8, 5)))
    assert fsq_levels(tokenizer, spec) == {"image": (8, 5)}
    tokenizer.architecture.levels = (8, 6)
    assert fsq_levels(tokenizer, spec) == {}
    assert fsq_levels(Means(), spec) == {}
    made = Perturbation(Means(), spec, levels={"image": (8, 5)})
    assert made.how("near") == "one level up or down in one dimension"


def test_curves_fall_as_more_ids_are_wrong() -> None:
    """By random ids more than by near ones; at rate 0 both are the tokenizer's own figure."""
    spec = PATCHES.spec(None)
    tally = PerturbedTally(
        PATCHES.load(),
        spec,
        kind="image",
        settings=Settings(rates=(0.3, 0.0)),
        features=Filters(),
        levels={},
    )
    for coded in code(PATCHES.load(), [Item(picture(n, 64), str(n)) for n in range(2)]):
        assert isinstance(coded, Coded)
        tally.add(coded, Original("image", coded.item.data))
    near, random = tally.curves()
    assert [point.setting for point in near.points] == [0.0, 0.3]
    assert near.points[0].values == random.points[0].values
    ends = [curve.points[1].values for curve in (near, random)]
    assert near.points[0].values["psnr_db"] > ends[0]["psnr_db"] > ends[1]["psnr_db"] + 1
    assert near.points[0].values["frechet"] < ends[1]["frechet"]
    assert "not a network" in near.features
