"""The law of the feed: the same global batches on any ranks, from any step, with everything on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.feed import Feed, Mixture, Packing, Part
from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.store import Store
from tokenmill.testing.feed import assert_restores_at_every_step, build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

WORLDS = [1, 2, 3, 4, 8]
IDS = Stream("ids", "index", (Axis("n"),), (1000,))
GRID = Stream("grid", "index", (Axis("h"), Axis("w", 2)), (500,))
LAYOUT = ShardLayout(
    TokenSpec((IDS, GRID)), extras=pa.schema([pa.field("score", pa.int64(), nullable=False)])
)
PACKING = Packing("ids", 12, bos=1000, eos=1001, pad=1002)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Two stores of samples whose shapes vary, of 300 and 210 samples."""
    folder = tmp_path_factory.mktemp("elastic")
    sizes = [[120, 0, 70, 110], [200, 10]]
    return [build_store(folder / str(i), s, layout=LAYOUT) for i, s in enumerate(sizes)]


@dataclass(frozen=True)
class Case:
    """One way to read both stores, or one of them."""

    mixed: bool = True
    where: str = ""
    holds: Callable[[int], bool] = lambda score: True
    stages: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def feed(self, stores: list[Store], **more: Any) -> Feed:
        """Open it."""
        options: dict[str, Any] = {"batch_size": 24, "seed": 5, "threads": 1, "columns": ("score",)}
        options |= {"transforms": (stamped,)} | self.options | more
        if not self.mixed:
            return Feed(stores[0], where=self.where, **options)
        parts = [Part(stores[0], 2, where=self.where), Part(stores[1], 1)]
        return Feed(Mixture(parts, self.stages), **options)


def stamped(batch: Batch, draw: Draw) -> Batch:
    """Give every item a random number of its own, and one that the step shares."""
    shared = np.repeat(draw.shared().integers("step", 10**6)[0], draw.rows)
    return {**batch, "stamp": draw.integers("item", 10**6)[:, 0], "shared": shared}


CASES = {
    "plain": Case(False),
    "filtered": Case(False, "score >= 40 and score < 251", lambda score: 40 <= score < 251),
    "completed": Case(False, options={"drop_last": False}),
    "full": Case(False, options={"shuffle": "full"}),
    "mixture": Case(),
    "staged": Case(
        where="score not in (3, 5, 7)",
        holds=lambda score: score not in (3, 5, 7),
        stages=((4, (1, 5)), (9, (1, 0))),
    ),
    "packed": Case(False, options={"packing": PACKING}),
    "packed, filtered": Case(
        False, "score < 200", lambda score: score < 200, options={"packing": PACKING}
    ),
    "packed mixture": Case(
        True, "score > 10", lambda score: score > 10, options={"packing": PACKING}
    ),
    "buckets": Case(False, options={"buckets": "grid"}),
    "buckets, completed": Case(False, options={"buckets": "grid", "drop_last": False}),
    "buckets, filtered mixture": Case(
        True, "score != 8", lambda score: score != 8, options={"buckets": "grid"}
    ),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def whole(batches: tuple[Batch, ...]) -> dict[str, list[Any]]:
    """A global batch as lists, from those of its ranks; boundaries depend on the rank's part."""
    names = [name for name in batches[0] if name not in ("cu_seqlens", "max_seqlen")]
    return {name: [plain(value) for batch in batches for value in batch[name]] for name in names}


def plain(value: Any) -> Any:
    """Arrays, also those in lists, as lists."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.tolist()
    return [plain(entry) for entry in value] if isinstance(value, list | np.ndarray) else value


@each
@pytest.mark.parametrize("world_size", WORLDS[1:])
def test_any_world_size_gives_the_same_global_batches(
    stores: list[Store], case: Case, world_size: int
) -> None:
    """Joined in order, the ranks' batches are those of one rank; also over the end of an epoch."""
    one = case.feed(stores)
    steps = len(one) + 4
    ranks = [case.feed(stores, rank=r, world_size=world_size) for r in range(world_size)]
    together: Iterator[tuple[Batch, ...]] = zip(*ranks, strict=True)
    for batch, parts in islice(zip(one, together, strict=False), steps):
        assert whole((batch,)) == whole(parts)


@each
def test_restored_at_every_step_twice_in_a_row(stores: list[Store], case: Case) -> None:
    """States of feeds that were themselves restored and left early, over two ends of epochs."""
    steps = min(60, 2 * len(case.feed(stores)) + 3)
    assert_restores_at_every_step(lambda: case.feed(stores), steps=steps)


@each
def test_a_state_goes_to_every_other_world_size(stores: list[Store], case: Case) -> None:
    """Saved by a rank of one size, restored by all ranks of another, at every third step."""
    want = [whole((batch,)) for batch in islice(case.feed(stores), 16)]
    feeds = {
        n: [case.feed(stores, rank=r, world_size=n, threads=0) for r in range(n)] for n in WORLDS
    }
    for step in (0, 5, 11, 14):
        for before, after in zip(WORLDS, [*WORLDS[1:], WORLDS[0]], strict=True):
            saving = feeds[before][-1]
            saving.seek(max(0, step - 1))
            for _ in islice(saving, min(1, step)):
                pass
            state = json.dumps(saving.state_dict())
            assert len(state) < 300
            for rank in feeds[after]:
                rank.load_state_dict(json.loads(state))
            assert whole(tuple(next(iter(rank)) for rank in feeds[after])) == want[step]


@each
def test_samples_of_names_what_a_step_reads(stores: list[Store], case: Case) -> None:
    """Without reading data: the scores of the rows are those of the batch."""
    feed = case.feed(stores)
    shown = [visible(stores[0], case.holds), visible(stores[1], lambda score: True)]
    for step, batch in enumerate(islice(feed, len(feed) + 2)):
        found = feed.samples_of(step)
        want = [shown[part][row] for part, row in zip(found.parts, found.rows, strict=True)]
        scores = batch["score"]
        if found.windows is not None:
            scores = np.concatenate([np.asarray(window) for window in scores])
            assert found.windows.sum() == len(want)
        assert np.asarray(scores).tolist() == want


def visible(store: Store, holds: Callable[[int], bool]) -> list[int]:
    """The scores of the samples that are shown, in manifest order."""
    batches = store.at().scan(["score"])
    return [s for batch in batches for s in batch.column("score").to_pylist() if holds(s)]


@each
def test_steps_of_is_the_inverse_of_samples_of(stores: list[Store], case: Case) -> None:
    """Every step that shows a sample, and no other; both stores name their samples alike."""
    feed = case.feed(stores)
    steps = range(2 * len(feed))
    names = [ids(stores[0], case.holds), ids(stores[1], lambda score: True)]
    shown: dict[str, set[int]] = {}
    for step in steps:
        found = feed.samples_of(step)
        for part, row in zip(found.parts, found.rows, strict=True):
            shown.setdefault(names[part][row], set()).add(step)
    for name in names[0][::17]:
        found_steps = feed.steps_of(name, epochs=range(9))
        assert {step for step in found_steps if step in steps} == shown.get(name, set())


def ids(store: Store, holds: Callable[[int], bool]) -> list[str]:
    """The ids of the samples that are shown, in manifest order."""
    batches = list(store.at().scan(["sample_id", "score"]))
    return [row["sample_id"] for b in batches for row in b.to_pylist() if holds(row["score"])]


def test_a_step_has_one_shape_on_every_rank(stores: list[Store]) -> None:
    """What buckets are for: arrays, not lists, of one shape for the whole step."""
    ranks = [CASES["buckets"].feed(stores, rank=r, world_size=3) for r in range(3)]
    shapes = set()
    for batches in zip(*(islice(rank, len(rank)) for rank in ranks), strict=True):
        found = {np.asarray(batch["grid"]).shape for batch in batches}
        assert len(found) == 1
        shapes |= found
    assert len(shapes) > 3


def test_windows_hold_whole_samples(stores: list[Store]) -> None:
    """Every window is its documents one after the other, each between its special ids."""
    feed = CASES["packed"].feed(stores, drop_last=False)
    for step, batch in enumerate(islice(feed, len(feed))):
        counts = feed.samples_of(step).windows
        assert counts is not None
        for window, segments, count in zip(batch["ids"], batch["segment_ids"], counts, strict=True):
            assert set(segments.tolist()) - {0} == set(range(1, count + 1))
            for document in range(1, count + 1):
                tokens = window[segments == document]
                assert (tokens[0], tokens[-1]) == (1000, 1001)
                assert tokens[1:-1].max() < 1000
            assert (window[segments == 0] == 1002).all()
