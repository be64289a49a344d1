import math

from hypothesis import given
from hypothesis import strategies as st

from tokenmill_infra.cluster.search import PROOFS, Search

SIZES = st.integers(min_value=1, max_value=300)


def search(
    size: int, killers: set[int], deaths: frozenset[int] = frozenset()
) -> tuple[Search, int]:
    """Run a search to its end; the trials numbered in ``deaths`` die for no reason of theirs."""
    state, trials = Search(0, size), 0
    while not state.over:
        start, stop = state.window
        assert 0 <= start < stop <= size
        died = trials in deaths or any(start <= k < stop for k in killers)
        state = state.after(died=died)
        trials += 1
    return state, trials


@given(SIZES, st.data())
def test_the_first_killer_is_found_in_logarithmic_time(size: int, data: st.DataObject) -> None:
    """With any number of killers, the search names the first one of them."""
    killers = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    state, trials = search(size, killers)
    assert state.found == min(killers)
    assert trials <= math.ceil(math.log2(size)) + PROOFS


@given(SIZES)
def test_without_a_killer_nothing_is_found(size: int) -> None:
    """A search after deaths that no item caused accuses none."""
    state, trials = search(size, set())
    assert state.found is None
    assert trials <= math.ceil(math.log2(size)) + 1


@given(SIZES, st.data())
def test_one_death_by_chance_accuses_nobody(size: int, data: st.DataObject) -> None:
    """Whenever a node fails during the search, no innocent item is named for it."""
    killers = data.draw(st.sets(st.integers(0, size - 1), max_size=3))
    state, _ = search(size, killers, frozenset({data.draw(st.integers(0, 12))}))
    assert state.found is None or state.found in killers
