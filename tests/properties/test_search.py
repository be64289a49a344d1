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


WINDOWS = st.tuples(st.integers(0, 299), st.integers(1, 40)).map(lambda w: (w[0], w[0] + w[1]))


@given(SIZES, st.data(), st.lists(WINDOWS, max_size=5), st.booleans())
def test_suspects_are_tried_first_and_change_nothing_else(
    size: int, data: st.DataObject, suspects: list[tuple[int, int]], in_full: bool
) -> None:
    """Whatever was at hand, only killers are found; one at hand, or any in a full search, is."""
    killers = data.draw(st.sets(st.integers(0, size - 1), max_size=3))
    inside = tuple((start, min(stop, size)) for start, stop in suspects if start < size)
    state, trials = Search(0, size if in_full else 0, suspects=inside, over=False), 0
    if not in_full and not inside:
        return
    while not state.over:
        start, stop = state.window
        died = any(start <= killer < stop for killer in killers)
        at_hand = tuple((k, k + 1) for k in sorted(killers) if start <= k < stop)[:1]
        state = state.after(died=died, at_hand=at_hand if died and trials % 2 else ())
        trials += 1
    at_stake = {k for k in killers if in_full or any(a <= k < b for a, b in inside)}
    assert (state.found in killers) if at_stake else state.found is None
    assert trials <= len(inside) + math.ceil(math.log2(size)) + 2 * PROOFS + 2


def test_a_proof_from_the_notes_counts_once() -> None:
    """The only item at hand at one death needs one more, alone; a survivor is let off at once."""
    suspect = Search(0, 0, deaths=1, suspects=((7, 8), (3, 4)))
    assert suspect.after(died=True).found == 7
    let_off = suspect.after(died=False)
    assert (let_off.window, let_off.deaths) == ((3, 4), 0)
    assert let_off.after(died=False) == Search(0, 0, over=True)


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
