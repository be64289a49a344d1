from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.testing.faults import BlockMeans, BlockMeansEncoder, view_number
from tokenmill.worker.batching import Batcher
from tokenmill.worker.device import GROW_AFTER, Device, Encoded, is_out_of_memory
from tokenmill_schemas.errors import TokenmillError


def views(count: int, side: int = 16) -> list[Any]:
    """Views of noise, each another."""
    rng = np.random.default_rng(side)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def device(**config: Any) -> tuple[Device, BlockMeansEncoder]:
    """A device and the encoder that it owns."""
    encoder = BlockMeans(**config).load()
    return Device(encoder), encoder


def images(result: Encoded) -> Any:
    """All tokens of a batch that had no failure."""
    return np.concatenate([t["image"] for _, t in result.pieces if not isinstance(t, Exception)])


def test_what_does_not_fit_is_halved_and_the_size_remembered() -> None:
    """Memory runs out at 4 of 10 views: halves until it fits, then never that large again."""
    plain, _ = device()
    small, encoder = device(fits=3)
    batch = views(10)
    assert np.array_equal(
        images(small.submit(batch).result()), images(plain.submit(batch).result())
    )
    assert encoder.batches == [10, 5, 2, 2, 2, 2, 2]
    small.submit(batch).result()
    assert encoder.batches[7:] == [2] * 5
    small.close()
    plain.close()


def test_a_size_that_once_did_not_fit_is_tried_again_after_many_that_did() -> None:
    """Another process may have held the memory; shapes are remembered apart."""
    limited, encoder = device(fits=3)
    for _ in range(GROW_AFTER):
        limited.submit(views(4)).result()
    del encoder.batches[:]
    encoder._config = BlockMeans()
    limited.submit(views(8, side=24)).result()
    assert encoder.batches == [8], "another shape has no limit yet"
    limited.submit(views(4)).result()
    assert encoder.batches[1:] == [4]
    limited.close()


def test_one_bad_view_costs_itself_alone() -> None:
    """Its neighbours in the batch are encoded; the error stands in its place."""
    batch = views(9)
    bad, _ = device(refuse=(view_number(batch[5]),))
    plain, _ = device()
    places, position = [], 0
    result = bad.submit(batch).result()
    for count, outcome in result.pieces:
        if isinstance(outcome, Exception):
            places.append(position)
            assert count == 1
        position += count
    assert (places, position) == ([5], 9)
    expected = np.delete(images(plain.submit(batch).result()), 5, axis=0)
    assert np.array_equal(images(result), expected)
    bad.close()
    plain.close()


def test_a_view_that_never_fits_fails_alone() -> None:
    """At one view there is nothing to halve; the others still get their turn."""
    tiny, _ = device(fits=0, refuse_all=True)
    pieces = tiny.submit(views(3)).result().pieces
    assert [(count, type(error)) for count, error in pieces] == [(1, RuntimeError)] * 3
    tiny.close()


def test_an_encoder_that_loses_a_sample_is_found_out() -> None:
    """Tokens that shift to the next picture would go unnoticed for ever."""
    shifting, _ = device(loses=True)
    with pytest.raises(TokenmillError, match="returned 3 samples of stream 'image' for 4 views"):
        shifting.submit(views(4)).result()
    shifting.close()


def test_out_of_memory_is_known_by_name() -> None:
    """Torch need not be installed to tell its error."""
    torch_like = type("OutOfMemoryError", (RuntimeError,), {})
    assert is_out_of_memory(torch_like("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert"))


SHAPES = st.lists(st.sampled_from([(8, 8), (8, 16), (24, 8)]), max_size=30)


@given(SHAPES, st.integers(1, 6), st.integers(1, 10**5))
def test_batches_hold_one_shape_within_both_limits(
    shapes: list[tuple[int, int]], size: int, budget: int
) -> None:
    """No view is lost or moved; a batch has one shape, at most ``size`` views and the budget."""
    batcher, batches = Batcher(size, budget), []
    for row, shape in enumerate(shapes):
        batch = batcher.add((row, 0), np.full((*shape, 3), row, np.uint8))
        batches += [batch] if batch else []
    batches += batcher.rest()
    assert sorted(p for b in batches for p in b.places) == [(r, 0) for r in range(len(shapes))]
    for batch in batches:
        assert len({view.shape for view in batch.views}) == 1
        assert [int(view[0, 0, 0]) for view in batch.views] == [row for row, _ in batch.places]
        assert list(batch.places) == sorted(batch.places)
        cost = sum(view.nbytes for view in batch.views) * 4
        assert len(batch.places) <= size
        assert cost <= budget or len(batch.places) == 1
    assert batcher.rest() == []
