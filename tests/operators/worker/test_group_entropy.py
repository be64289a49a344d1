"""Entropies of groups of samples, against numpy's own counts of each group."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.worker import group_entropy
from tokenmill.worker.group_entropy import entropy_sums
from tokenmill_schemas.entropy import GROUPS, entropy_of
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec


def by_hand(groups: list[npt.NDArray[Any]]) -> dict[str, int]:
    """The sums of groups of ids, each counted by numpy."""
    found = {"groups": len(groups), "millibits": 0, "squares": 0, "ids": 0}
    for group in groups:
        _, counts = np.unique(group, return_counts=True)
        shares = counts / counts.sum()
        bits = round(1000 * float(-(shares * np.log2(shares)).sum()))
        found["millibits"] += bits
        found["squares"] += bits**2
        found["ids"] += len(counts)
    return found


def grouped(samples: list[npt.NDArray[Any]], size: int) -> list[npt.NDArray[Any]]:
    """Whole groups of samples, flat."""
    whole = range(0, len(samples) - size + 1, size)
    return [np.concatenate([s.ravel() for s in samples[at : at + size]]) for at in whole]


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(0, 40),
    st.sampled_from([(2, np.uint8), (1024, np.uint16), (2**16, np.uint16), (2**18, np.uint32)]),
    st.integers(1, 200),
)
def test_ids_are_counted_group_by_group(
    seed: int, rows: int, vocabulary: tuple[int, Any], at_once: int
) -> None:
    """Of any vocabulary, and however many groups are looked at in one go."""
    size, dtype = vocabulary
    stream = Stream("image", "index", (Axis("h", 3), Axis("w", 5)), vocab_sizes=(size,))
    ids = (size * np.random.default_rng(seed).random((rows, 3, 5)) ** 3).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_entropy, "AT_ONCE", at_once)
        found = entropy_sums(TokenSpec((stream,)), {"image": ids})
    wanted = {str(size): by_hand(grouped(list(ids), size)) for size in GROUPS}
    kept = {size: sums for size, sums in wanted.items() if sums["groups"]}
    assert found == ({"image": kept} if kept else {})


def test_samples_of_any_length_and_without_ids() -> None:
    """A sample without ids is no group, and none of those that follow is cut for it."""
    stream = Stream("run", "index", (Axis("n"),), vocab_sizes=(50,))
    rng = np.random.default_rng(1)
    lengths = [3, 0, 9, 40, 1, 1, 7, 8, 0, 5, 6, 7, 30, 2, 2, 2, 2, 2, 2]
    samples = [rng.integers(0, 50, n).astype(np.uint8) for n in lengths]
    found = entropy_sums(TokenSpec((stream,)), {"run": samples})
    there = [sample for sample in samples if len(sample)]
    assert found["run"] == {str(size): by_hand(grouped(there, size)) for size in GROUPS}
    assert entropy_sums(TokenSpec((stream,)), {"run": [samples[1]]}) == {}
    assert entropy_sums(TokenSpec((stream,)), {"run": []}) == {}


def test_a_stream_of_varying_shape_equals_one_of_fixed_shape() -> None:
    """Arrays one by one, or all in one."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 900, (20, 4, 2)).astype(np.uint16)
    books = (400, 900)
    fixed = Stream("code", "index", (Axis("n", 4), Axis("depth", 2)), vocab_sizes=books)
    loose = Stream("code", "index", (Axis("n"), Axis("depth", 2)), vocab_sizes=books)
    ids[..., 0] %= 400
    one = entropy_sums(TokenSpec((fixed,)), {"code": ids})
    assert one == entropy_sums(TokenSpec((loose,)), {"code": list(ids)})


def test_books_are_told_apart() -> None:
    """Two books of one id each have no entropy, though their ids differ."""
    stream = Stream("code", "index", (Axis("n", 6), Axis("depth", 2)), vocab_sizes=(4, 16))
    ids = np.zeros((8, 6, 2), np.uint8) + np.array([3, 11], np.uint8)
    found = entropy_sums(TokenSpec((stream,)), {"code": ids})
    assert (entropy_of(found, "code", 1).mean_bits, entropy_of(found, "code", 8).mean_bits) == (
        0,
        0,
    )
    ids[:, ::2, 1] = 2  # the second book's are now half this and half that: a bit, and none
    found = entropy_sums(TokenSpec((stream,)), {"code": ids})
    assert entropy_of(found, "code", 1).mean_bits == entropy_of(found, "code", 8).mean_bits == 0.5
    assert entropy_of(found, "code", 1).mean_ids == 3


def test_bits_have_the_sum_of_their_own_entropies() -> None:
    """A fair bit has one, a bit that never changes none; ids of such codes are not counted."""
    stream = Stream("code", "bits", (Axis("n", 4),), width_bits=3)
    codes = np.zeros((16, 4, 3), np.uint8)
    codes[:, ::2, 0] = 1
    codes[..., 1] = 1
    found = entropy_sums(TokenSpec((stream,)), {"code": codes})
    assert found["code"]["1"] == {
        "groups": 16,
        "millibits": 16_000,
        "squares": 16 * 10**6,
        "ids": 0,
    }
    assert found["code"]["8"] == {"groups": 2, "millibits": 2000, "squares": 2 * 10**6, "ids": 0}


def test_latents_have_none() -> None:
    """Only what has ids, or bits, is in the sums."""
    latent = Stream("latent", "float", (Axis("h", 2),), channels=4, dtype="float32")
    tokens = {"latent": np.zeros((9, 2, 4), np.float32)}
    assert entropy_sums(TokenSpec((latent,)), tokens) == {}


def test_the_mean_does_not_depend_on_how_many_samples_there_are() -> None:
    """What the plug-in entropy of all together does: few samples must not look like a drift."""
    stream = Stream("image", "index", (Axis("n", 64),), vocab_sizes=(4096,))
    ids = np.random.default_rng(3).integers(0, 4096, (2048, 64)).astype(np.uint16)
    spec = TokenSpec((stream,))
    few, many = (entropy_sums(spec, {"image": ids[:n]}) for n in (24, 2048))
    for size in GROUPS:
        apart = entropy_of(few, "image", size).mean_bits - entropy_of(many, "image", size).mean_bits
        assert abs(apart) < 0.02
    assert by_hand([ids[:24]])["millibits"] < by_hand([ids])["millibits"] - 1000


def test_it_costs_little() -> None:
    """256 pictures of 1,024 ids of 16 bits, in CPU time: far below a microsecond an id."""
    stream = Stream("image", "index", (Axis("n", 1024),), vocab_sizes=(65536,))
    ids = np.random.default_rng(4).integers(0, 65536, (256, 1024)).astype(np.uint16)
    start = time.thread_time()
    entropy_sums(TokenSpec((stream,)), {"image": ids})
    assert time.thread_time() - start < 0.26
