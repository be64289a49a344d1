import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.tokenizers import quantize
from tokenmill.tokenizers.quantize import Distance, look_up, nearest_code

SMALL = st.integers(-4, 4)


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors and codes of small integers, for which float32 distances are exact."""
    width, codes, count = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 9))
    values = draw(
        st.lists(SMALL, min_size=width * (codes + count), max_size=width * (codes + count))
    )
    rows = torch.tensor(values, dtype=torch.float32).reshape(-1, width)
    return rows[:count], rows[count:]


@pytest.mark.parametrize("distance", ["expanded", "addmm"])
@given(problem=problems())
def test_the_first_of_the_nearest_codes_is_found(
    distance: Distance, problem: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Ties go to the lowest id, as argmin says."""
    z, codes = problem
    squares = (z.double()[:, None] - codes.double()[None]).square().sum(-1).numpy()
    assert nearest_code(z, codes, distance=distance).tolist() == squares.argmin(1).tolist()


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 7))
def test_a_bounded_search_gives_the_ids_of_an_unbounded_one(count: int, rows: int) -> None:
    """Chunks of positions are independent."""
    generator = np.random.default_rng(count)
    z = torch.from_numpy(generator.standard_normal((count, 4), dtype=np.float32))
    codes = torch.from_numpy(generator.standard_normal((64, 4), dtype=np.float32))
    whole = nearest_code(z, codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(quantize._BUDGET_VALUES, "cpu", rows * len(codes))
        assert torch.equal(nearest_code(z, codes), whole)


def test_l2_normalised_search_is_by_angle() -> None:
    """Length plays no part on either side, and codes come back with length one."""
    codes = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    z = torch.tensor([[[0.2, 0.1], [0.1, 7.0]]])
    ids = nearest_code(z, codes, l2_norm=True)
    assert ids.tolist() == [[0, 1]]
    assert look_up(ids, codes, l2_norm=True).tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
    assert nearest_code(z, codes).tolist() == [[1, 1]]


def test_the_search_is_in_float32_under_autocast() -> None:
    """In bfloat16 these two codes would be one."""
    codes, z = torch.tensor([[1.0, 1.0], [1.001, 1.001]]), torch.tensor([[1.001, 1.001]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest_code(z, codes).tolist() == [1]
