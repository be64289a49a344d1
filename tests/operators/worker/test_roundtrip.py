"""Which samples are decoded again, and how near they come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.worker import roundtrip
from tokenmill.worker.pieces import Piece
from tokenmill.worker.roundtrip import Choice, as_view, figure, rank_of
from tokenmill_schemas.errors import TokenmillError

#: Assets: how many views each has, and whether it was read to its end.
ASSETS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=12)


def view_of(row: int, index: int) -> Any:
    """A view that tells which one it is."""
    return np.array([row, index], np.uint8)


def filled(choice: Choice, assets: list[tuple[int, bool]]) -> None:
    """Show all views of all assets to ``choice``."""
    for row, (views, good) in enumerate(assets):
        for index in range(views):
            choice.see(row, f"{row}#{index}", Piece(index, view_of(row, index), {}))
        if good:
            choice.keep()
        choice.drop()


def rows_of(names: list[str]) -> pa.RecordBatch:
    """Rows of a unit, of which only the ids matter here."""
    return pa.RecordBatch.from_pydict({"sample_id": pa.array(names, pa.string())})


@settings(deadline=None)  # the first array of strings loads a library
@given(ASSETS, st.integers(1, 5))
def test_the_least_ranks_of_the_good_assets_are_chosen(
    assets: list[tuple[int, bool]], count: int
) -> None:
    """As sorting all of them would, in the rows' order, each with its own view."""
    choice = Choice(count)
    filled(choice, assets)
    names = [f"{row}#{index}" for row, (n, good) in enumerate(assets) if good for index in range(n)]
    chosen = list(choice.chosen(rows_of(names)))
    wanted = sorted(sorted(names, key=rank_of)[:count], key=names.index)
    assert [one.sample_id for _, one in chosen] == wanted
    assert [place for place, _ in chosen] == [names.index(name) for name in wanted]
    for _, one in chosen:
        assert f"{one.view[0]}#{one.view[1]}" == one.sample_id


def test_an_asset_that_could_not_be_encoded_leaves_its_place_empty() -> None:
    """No other sample moves up: whether it does would depend on when the failure is seen."""
    choice = Choice(2)
    filled(choice, [(1, True)] * 6)
    names = sorted((f"{row}#0" for row in range(6)), key=rank_of)
    chosen = list(choice.chosen(rows_of(names[1:])))
    assert [one.sample_id for _, one in chosen] == names[1:2]


def test_nothing_is_kept_where_nobody_asks() -> None:
    """Neither views nor counts."""
    choice = Choice(0)
    filled(choice, [(3, True)])
    assert list(choice.chosen(rows_of(["0#0", "0#1", "0#2"]))) == []


def test_a_clip_in_parts_is_one_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames are joined; what is too large is passed over and counted, if its asset is kept."""
    monkeypatch.setattr(roundtrip, "VIEW_BYTES", 100)
    choice = Choice(3)
    frames = np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3)
    for index, times in enumerate((1, 2)):  # 60 and 120 bytes
        for part in (frames[:3], frames[3:]) * times:
            choice.see(0, f"a#{index}", Piece(index, part, None))
        choice.see(0, f"a#{index}", Piece(index, None, {}))
    choice.keep()
    choice.see(1, "b#0", Piece(0, np.zeros(101, np.uint8), {}))
    choice.drop()
    ((_, one),) = choice.chosen(rows_of(["a#0", "a#1", "b#0"]))
    assert (one.sample_id, one.view.tolist()) == ("a#0", frames.tolist())
    assert choice.passed_over == 1


def test_a_clip_that_broke_off_leaves_nothing_for_the_next() -> None:
    """Its parts are of no asset that follows."""
    choice = Choice(2)
    choice.see(0, "a#0", Piece(0, np.ones((2, 1, 1, 3), np.uint8), None))
    choice.drop()
    choice.see(1, "b#0", Piece(0, np.zeros((1, 1, 1, 3), np.uint8), {}))
    choice.keep()
    ((_, one),) = choice.chosen(rows_of(["b#0"]))
    assert one.view.tolist() == [[[[0, 0, 0]]]]


def test_a_kept_view_is_a_copy() -> None:
    """Else a crop would hold the whole picture in memory, and a reader's buffer could change it."""
    picture = np.zeros((8, 8, 3), np.uint8)
    choice = Choice(1)
    choice.see(0, "a#0", Piece(0, picture[:4, :4], {}))
    choice.keep()
    picture[:] = 9
    ((_, one),) = choice.chosen(rows_of(["a#0"]))
    assert (one.view.base, int(one.view.max())) == (None, 0)


@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 6, 5, 3)])
def test_psnr_is_that_of_floats(shape: tuple[int, ...]) -> None:
    """Over all frames and channels, in hundredths of a dB."""
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2))
    error = np.mean((one.astype(np.float64) - other) ** 2)
    assert figure("psnr_db", one, other) == round(10 * math.log10(255**2 / error), 2)
    assert figure("psnr_db", one, one) == 100
    black, white = (np.full(shape, value, np.uint8) for value in (0, 255))
    assert figure("psnr_db", black, white) == 0


def test_next_to_nothing_counts_as_nothing() -> None:
    """A last bit of one value in a large picture is 100 dB too, and not more than equality."""
    one = np.zeros((512, 512, 3), np.uint8)
    other = one.copy()
    other[0, 0, 0] = 1
    assert figure("psnr_db", one, other) == 100


def test_iou_of_occupancies() -> None:
    """What both have over what either has; two empty ones are equal."""
    one, other = np.zeros((4, 4, 4), np.bool_), np.zeros((4, 4, 4), np.bool_)
    assert figure("iou", one, other) == 1
    one[0, 0, :3] = other[0, 0, 1:] = True
    assert figure("iou", one, other) == 0.5
    other[:] = False
    assert figure("iou", one, other) == 0


def test_another_shape_is_no_reconstruction() -> None:
    """It says both shapes; one frame more than a picture is none too many."""
    one = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TokenmillError, match=r"decodes to \[2, 4, 3\], not to \[4, 4, 3\]"):
        figure("psnr_db", one, one[:2])
    assert as_view(one[None], one).shape == one.shape
    assert as_view(np.repeat(one[None], 4, axis=0), one[None]).shape == (1, 4, 4, 3)
    assert as_view(np.repeat(one[None], 4, axis=0), one).shape == (4, 4, 4, 3)
