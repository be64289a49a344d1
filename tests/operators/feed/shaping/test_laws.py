"""What every transform keeps: it is a function of the batch and of places in the step alone."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

from tokenmill.feed import shaping
from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.correction import SelfCorrection
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Latent

ROWS = 8
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (ROWS, 4, 4)).astype(np.uint16)
FLAT = IDS.reshape(ROWS, 16)
RAGGED = [RNG.integers(0, 50, (n, 3)).astype(np.uint16) for n in (4, 7, 3, 9, 4, 5, 3, 6)]
FLOATS = RNG.standard_normal((ROWS, 4, 4, 6), np.float32)
BOOK = RNG.standard_normal((50, 5)).astype(np.float32)
LEVELS = ((1, 1), (2, 2), (3, 3))
PYRAMID = RNG.integers(0, 50, (ROWS, 14)).astype(np.uint16)
BITS = RNG.integers(0, 2, (ROWS, 14, 6)).astype(np.uint8)
LABELS = RNG.integers(0, 10, ROWS)
TEXTS = np.array([f"a picture {i}" for i in range(ROWS)], object)
MARKED = shaping.Piece("x", (50,), begin="boi", row_end="eol")
MOMENTS = Latent("mean_logvar", (0.5,), (0.1,))

CASES: list[tuple[Any, Batch]] = [
    (shaping.Flatten((MARKED,), specials=("boi", "eol")), {"x": IDS}),
    (shaping.Flatten((shaping.Piece("x", (50,), depth=3),)), {"x": RAGGED}),
    (shaping.Reorder("x", "near_to_far"), {"x": IDS}),
    (shaping.RandomOrder("x", start=0, end=10), {"x": IDS}),
    (shaping.KeepPrefix("x", "uniform", 1, 16), {"x": FLAT}),
    (shaping.KeepPrefix("x", "pow2", 1, 16, per_sample=True), {"x": FLAT}),
    (shaping.TeacherInput("x", LEVELS, BOOK), {"x": PYRAMID}),
    (SelfCorrection("x", LEVELS), {"x": BITS}),
    (SelfCorrection("x", ((1, 1), (2, 2), (4, 4))), {"x": FLOATS}),
    (shaping.Signs("x"), {"x": BITS}),
    (shaping.SplitIds("x", (2, 4)), {"x": IDS}),
    (shaping.GroupBits("x", 3), {"x": BITS}),
    (shaping.MaskTokens("x", 50), {"x": FLAT}),
    (shaping.MaskTokens("x", None, shaping.MAR, order=True, tail=1), {"x": BITS}),
    (shaping.MergeWindows("x", 2), {"x": IDS}),
    (shaping.Perturb("x", shaping.nearest_codes(BOOK, 4), 0.5, 0.5), {"x": IDS}),
    (shaping.ToLatent("x", MOMENTS), {"x": FLOATS}),
    (shaping.ToLatent("x", MOMENTS), {"x": [f[: i + 1] for i, f in enumerate([*FLOATS[:4]] * 2)]}),
    (shaping.Standardise("x", np.zeros(6), np.ones(6)), {"x": FLOATS}),
    (shaping.QuantiseChannels("x"), {"x": FLOATS}),
    (shaping.OneView(("x",)), {"x": IDS}),
    (shaping.DropCondition((("label", 10), ("text", "")), 0.5), {"label": LABELS, "text": TEXTS}),
    (shaping.ChooseCaption(("text", "other")), {"text": TEXTS, "other": TEXTS[::-1].copy()}),
    (shaping.Pad("x", 8, begin=50, end=51), {"x": RAGGED}),
    (shaping.Begin("x", "label", 50), {"x": IDS, "label": LABELS}),
    (shaping.SeparateBlocks("x", "n", 50), {"x": FLAT, "n": np.tile([7, 9], (ROWS, 1))}),
    (shaping.BlockIndex("x", "n"), {"x": FLAT, "n": np.tile([7, 9], (ROWS, 1))}),
    (shaping.Take("x", "y", 1, 3), {"x": IDS}),
    (shaping.MapIds("x", np.arange(50)[::-1].copy()), {"x": RAGGED}),
    (shaping.Positions("x", window=2), {"x": IDS}),
    (shaping.Positions("x", tail=1), {"x": RAGGED}),
    (shaping.ShuffleSet(("x",)), {"x": RAGGED}),
    (shaping.ShuffleSet(("x",), keep=2), {"x": IDS}),
    (shaping.SortSet("x"), {"x": RAGGED}),
    (shaping.ScaleCoords("x", 64), {"x": RAGGED}),
    (shaping.JoinPoints("x", "y", "xy"), {"x": RAGGED, "y": RAGGED}),
]  # fmt: skip
NAMES = [f"{i}-{type(transform).__name__}" for i, (transform, _) in enumerate(CASES)]


def rows_of(values: Values) -> list[Any]:
    """The samples of an entry, each with its type."""
    return [(np.asarray(one).dtype.kind, np.asarray(one).tolist()) for one in values]


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some samples of a batch."""
    return {name: values[rows] for name, values in batch.items()}


@pytest.mark.parametrize(("transform", "batch"), CASES, ids=NAMES)
def test_a_sample_is_shaped_alike_on_every_rank(transform: Any, batch: Batch) -> None:
    """The parts of a step, shaped apart, are the whole step shaped; so is a pickled copy's."""
    whole = transform(batch, Draw(3, 5, 0, ROWS))
    copy = pickle.loads(pickle.dumps(transform))
    for size in (1, 4):
        parts = [
            copy(part_of(batch, slice(at, at + size)), Draw(3, 5, at, size))
            for at in range(0, ROWS, size)
        ]
        for name, values in whole.items():
            joined = [row for part in parts for row in rows_of(part[name])]
            assert rows_of(values) == joined, name


@pytest.mark.parametrize(("transform", "batch"), CASES, ids=NAMES)
def test_what_was_given_is_left_alone(transform: Any, batch: Batch) -> None:
    """Neither the batch nor its arrays change; what is added is named after what is there."""
    before = {name: rows_of(values) for name, values in batch.items()}
    names = list(batch)
    after = transform(batch, Draw(0, 0, 0, ROWS))
    assert after is not batch
    assert list(batch) == names
    assert {name: rows_of(values) for name, values in batch.items()} == before
    assert set(names) <= set(after)


@pytest.mark.parametrize(("transform", "batch"), CASES, ids=NAMES)
def test_a_missing_entry_is_named(transform: Any, batch: Batch) -> None:
    """The error is the job's, says where, and names what the batch has."""
    with pytest.raises(JobError, match=r"the batch has no .*nothing_alike") as caught:
        transform({"nothing_alike": LABELS}, Draw(0, 0, 0, ROWS))
    assert caught.value.path == "feed.transforms"


RANDOM = (
    shaping.RandomOrder,
    shaping.MaskTokens,
    shaping.Perturb,
    shaping.OneView,
    shaping.ShuffleSet,
    SelfCorrection,
)
DRAWING = [case for case in CASES if isinstance(case[0], RANDOM)]


@pytest.mark.parametrize(
    ("transform", "batch"), DRAWING, ids=[type(transform).__name__ for transform, _ in DRAWING]
)
def test_another_step_or_seed_draws_anew(transform: Any, batch: Batch) -> None:
    """Random transforms differ between steps and between seeds, and not between two looks."""
    draws = [Draw(0, 1, 0, ROWS), Draw(0, 2, 0, ROWS), Draw(1, 1, 0, ROWS), Draw(0, 1, 0, ROWS)]
    seen = [str([rows_of(v) for v in transform(batch, draw).values()]) for draw in draws]
    assert len(set(seen[:3])) == 3
    assert seen[3] == seen[0]


@pytest.mark.parametrize(
    ("transform", "batch"),
    [case for case in CASES if isinstance(case[0], (shaping.MaskTokens, shaping.KeepPrefix))],
)
def test_a_draw_of_other_rows_is_refused(transform: Any, batch: Batch) -> None:
    """Otherwise ranks would quietly get each other's numbers."""
    with pytest.raises(JobError, match="8 samples and the draw 7"):
        transform(batch, Draw(0, 0, 0, 7))


TRANSFORMS = [getattr(shaping, name) for name in shaping.__all__]
TRANSFORMS = [one for one in TRANSFORMS if isinstance(one, type) and "__call__" in vars(one)]


@pytest.mark.parametrize("kind", TRANSFORMS, ids=lambda kind: str(kind.__name__))
def test_a_transform_names_its_paper(kind: type) -> None:
    """In its own docstring, and every public one is held to the laws above."""
    assert re.search(r"arXiv:\d{4}\.\d{5}", kind.__doc__ or "")
    held = {type(transform) for transform, _ in CASES} | {shaping.Restore, shaping.Phi}
    assert kind in held
