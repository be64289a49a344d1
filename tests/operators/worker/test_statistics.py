"""Statistics of tokens: exact where they say so, mergeable, small as JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenmill.worker.statistics import TokenStatistics, merged
from tokenmill.worker.stream_statistics import BitStatistics, FloatStatistics, IndexStatistics
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

IDS = hnp.arrays(np.uint16, st.integers(1, 60), elements=st.integers(0, 99))
SPEC = TokenSpec(
    (
        Stream("image", "index", (Axis("h", 2), Axis("w", 2)), vocab_sizes=(100,)),
        Stream("code", "bits", (Axis("n", 3),), width_bits=8),
        Stream("latent", "float", (Axis("h", 2),), channels=4, dtype="float32"),
    )
)


def batch(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Return a batch of random tokens of `SPEC`."""
    return {
        "image": rng.integers(0, 100, (rows, 2, 2)).astype(np.uint8),
        "code": rng.integers(0, 2, (rows, 3, 8)).astype(np.uint8),
        "latent": rng.normal(3.0, 2.0, (rows, 2, 4)).astype(np.float32),
    }


@given(IDS)
def test_counts_are_those_of_numpy(ids: np.ndarray) -> None:
    """Distinct ids, entropy and the most frequent id agree with numpy's own counts."""
    found = IndexStatistics((100,))
    found.add(ids)
    values, counts = np.unique(ids, return_counts=True)
    shares = counts / counts.sum()
    assert found.distinct == len(values)
    assert found.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-9)
    assert found.top(1) == [(int(values[counts.argmax()]), int(counts.max()))]


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 5))
def test_parts_merge_to_the_whole_in_any_order(seed: int, parts: int, rows: int) -> None:
    """What receipts carry adds up to what one pass over everything counts."""
    rng = np.random.default_rng(seed)
    batches = [batch(rng, rows + 1) for _ in range(parts)]
    whole = TokenStatistics.of(SPEC)
    receipts = []
    for tokens in batches:
        whole.add(tokens)
        part = TokenStatistics.of(SPEC)
        part.add(tokens)
        receipts.append(json.loads(json.dumps(part.to_json())))
    for order in (receipts, receipts[::-1]):
        joined = merged(order).to_json()
        expected = whole.to_json()
        assert joined["image"] == expected["image"]
        assert joined["code"] == expected["code"]
        for name in ("counts", "mean", "squares"):
            np.testing.assert_allclose(joined["latent"][name], expected["latent"][name])


def test_units_of_rejects_only_add_nothing() -> None:
    """A receipt without samples carries an empty mapping."""
    part = TokenStatistics.of(SPEC)
    part.add(batch(np.random.default_rng(0), 2))
    assert merged([{}, part.to_json(), {}]).to_json() == part.to_json()


def test_merging_leaves_the_parts_alone() -> None:
    """The whole takes a copy of the first part, not the part itself."""
    part = TokenStatistics.of(SPEC)
    part.add(batch(np.random.default_rng(0), 2))
    before = part.to_json()
    whole = TokenStatistics()
    whole.merge(part)
    whole.merge(part)
    assert part.to_json() == before


def test_product_codes_are_counted_book_by_book() -> None:
    """Equal ids of two books are two ids; the entropy is a position's, not the pair's."""
    found = IndexStatistics((8, 4))
    ids = np.stack([np.arange(8) % 8, np.arange(8) % 4], axis=-1)[None]
    found.add(ids.astype(np.uint8))
    assert (found.vocab, found.distinct, found.tokens) == (12, 12, 16)
    assert found.entropy_bits == pytest.approx((3 + 2) / 2)


@pytest.mark.parametrize("ids", [[0, 100], [-1, 5]])
def test_ids_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    """An encoder that breaks its own spec is found out before its shard is published."""
    with pytest.raises(ValueError, match="do not fit vocabulary"):
        IndexStatistics((100,)).add(np.array(ids))


def test_each_book_has_its_own_limit() -> None:
    """An id that fits the larger book does not fit the smaller one."""
    with pytest.raises(ValueError, match=r"\(8, 4\)"):
        IndexStatistics((8, 4)).add(np.array([[[7, 4]]], np.uint8))


def test_large_vocabularies_keep_exact_use_and_a_lower_bound_of_entropy() -> None:
    """Of 2^18 ids the distinct ones are counted, and hashing never adds entropy."""
    ids = np.random.default_rng(1).integers(0, 2**18, 200_000).astype(np.uint32)
    found = IndexStatistics((2**18,))
    found.add(ids)
    again = IndexStatistics.from_json(json.loads(json.dumps(found.to_json())))
    counts = np.unique(ids, return_counts=True)[1]
    shares = counts / counts.sum()
    true_bits = float(-(shares * np.log2(shares)).sum())
    assert (again.distinct, again.distinct_is_exact, again.is_exact) == (len(counts), True, False)
    assert true_bits - 2.5 < again.entropy_bits <= true_bits
    assert again.top(3) == []


def test_huge_vocabularies_estimate_their_use() -> None:
    """Above 2^20 ids linear counting stays within two percent here."""
    ids = np.arange(50_000, dtype=np.uint64) * 7919
    found = IndexStatistics((2**40,))
    found.add(ids)
    assert not found.distinct_is_exact
    assert found.distinct == pytest.approx(50_000, rel=0.02)


def test_bits_have_means_and_an_upper_bound_of_entropy() -> None:
    """A constant bit has no entropy, a fair one has a bit."""
    found = BitStatistics(3)
    found.add(np.array([[[0, 1, 0], [1, 1, 0]], [[0, 1, 0], [1, 1, 0]]], np.uint8))
    assert found.mean.tolist() == [0.5, 1.0, 0.0]
    assert found.entropy_bits == 1.0
    with pytest.raises(ValueError, match="0 or 1"):
        found.add(np.array([[2, 0, 1]], np.uint8))


@settings(max_examples=30)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=40), st.integers(1, 39))
def test_moments_do_not_depend_on_the_batches(values: list[float], cut: int) -> None:
    """Mean and standard deviation agree with numpy's over the whole, however it is cut."""
    rows = np.array(values)[:, None]
    found = FloatStatistics(1)
    found.add(rows[:cut])
    found.add(rows[cut:])
    assert found.mean[0] == pytest.approx(rows.mean(), abs=1e-6)
    assert found.std[0] == pytest.approx(rows.std(), rel=1e-6, abs=1e-6)


def test_infinite_latents_are_counted_and_spoil_nothing() -> None:
    """Half-precision overflow shows as a number in the report, not as a mean of NaN."""
    found = FloatStatistics(2)
    found.add(np.array([[1.0, np.inf], [3.0, 5.0], [np.nan, 7.0]], np.float32))
    assert (found.nonfinite, found.tokens) == (2, 3)
    assert found.mean.tolist() == [2.0, 6.0]
    json.dumps(found.to_json(), allow_nan=False)


def test_bfloat16_bits_are_read_as_numbers() -> None:
    """0x3FC0 is 1.5 and 0xC000 is -2 in bfloat16."""
    found = FloatStatistics(1)
    found.add(np.array([[0x3FC0], [0xC000]], np.uint16))
    assert found.mean.tolist() == [-0.25]


def test_streams_of_another_kind_or_size_do_not_merge() -> None:
    """Statistics of two tokenizers are never added up."""
    one = TokenStatistics({"image": IndexStatistics((8,))})
    with pytest.raises(ValueError, match="bits there"):
        one.merge(TokenStatistics({"image": BitStatistics(8)}))
    with pytest.raises(ValueError, match="vocabularies"):
        one.merge(TokenStatistics({"image": IndexStatistics((16,))}))


def test_a_receipts_statistics_stay_small() -> None:
    """A unit of 1,024 pictures of 256 tokens out of 16,384 takes less than 40 kB."""
    found = IndexStatistics((16_384,))
    found.add(np.random.default_rng(2).integers(0, 16_384, (1024, 256)).astype(np.uint16))
    assert len(json.dumps(found.to_json())) < 40_000
    assert found.entropy_bits < math.log2(16_384)


def test_counts_above_four_billion_survive() -> None:
    """A run of trillions of tokens needs 64 bits per id."""
    found = IndexStatistics((2,))
    found.counts += np.array([2**40, 3])
    assert IndexStatistics.from_json(found.to_json()).counts.tolist() == [2**40, 3]
