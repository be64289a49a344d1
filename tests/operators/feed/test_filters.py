"""Filters of a feed: exactly the samples for which they are true, as a scan finds them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed import Feed, ShardCache
from tokenmill.feed.rows.bits import Selection
from tokenmill.feed.rows.opening import Opened, Wanted, open_snapshot
from tokenmill.store import Store
from tokenmill.store.groups import add_group, from_table
from tokenmill.store.paths import DATA
from tokenmill.store.takedown import takedown
from tokenmill.testing.feed import SMALL_LAYOUT, assert_restores_at_every_step, build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError, JobError, StoreError
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.where import parse

SAMPLES = [300, 0, 57, 1, 260]
ROWS = sum(SAMPLES)
EXTRAS = pa.schema(
    [
        pa.field("aesthetic", pa.float32()),
        pa.field("licence", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
    ]
)
LAYOUT = ShardLayout(SMALL_LAYOUT.spec, extras=EXTRAS)
FORMATS: tuple[Literal["arrow", "webdataset"], ...] = ("arrow", "webdataset")
CONDITIONS = [
    "aesthetic > 5",
    "aesthetic <= 2.5",
    "licence = 'cc0'",
    "licence is null",
    "not licence in ('by', 'nc')",
    "width between 100 and 400",
    "width != 7",
    "sample_id like 's1%'",
    "asset_key >= 'a3'",
    "score > 40",
    "score is null",
    "caption like '%7'",
    "caption is not null",
    "true",
    "false",
]


@dataclass(frozen=True)
class Scene:
    """A store of two versions, the second with groups and tombstones, and a later takedown.

    ``ids`` are all samples of every shard, ``tables`` what was scanned.
    """

    store: Store
    cache: ShardCache
    ids: dict[str, list[str]]
    tables: dict[tuple[Any, ...], pa.Table] = field(default_factory=dict)

    def open(self, where: str, ref: int | None = None, **wanted: Any) -> Opened:
        """Open a version with a filter."""
        reading = Wanted(wanted.get("streams"), wanted.get("columns", ()), None, where)
        return open_snapshot(self.store, self.store.snapshot(ref), reading, self.cache)

    def found(self, opened: Opened) -> list[str]:
        """The ids of what an opened version shows, read through its plan."""
        shards, rows = (part.tolist() for part in opened.plan.locate(np.arange(opened.plan.rows)))
        paths = [opened.manifest.path(shard) for shard in shards]
        return [self.ids[path][row] for path, row in zip(paths, rows, strict=True)]

    def scanned(
        self, where: str, ref: int | None = None, groups: tuple[str, ...] = ()
    ) -> list[str]:
        """The ids of what a scan of the version finds."""
        condition = parse(where)
        owners = {"score": "marks", "caption": "text"}
        read = sorted({*groups, *(owners[name] for name in condition.columns if name in owners)})
        if (ref, *read) not in self.tables:
            batches = list(self.store.at(ref).scan(None, read))
            self.tables[ref, *read] = pa.Table.from_batches(batches)
        table = self.tables[ref, *read]
        names: list[str] = table.filter(condition.mask(table))["sample_id"].to_pylist()
        return names


def values() -> dict[str, list[Any]]:
    """Scores with nulls and a NaN, licences with nulls, and widths."""
    rng = random.Random(0)
    return {
        "aesthetic": [rng.choice([None, float("nan"), 1.0, 5.0, 5.5, 9.25]) for _ in range(ROWS)],
        "licence": [rng.choice([None, "cc0", "by", "nc", ""]) for _ in range(ROWS)],
        "width": [rng.randrange(1000) for _ in range(ROWS)],
    }


def marks() -> pa.Table:
    """Scores of every second sample, some of them null."""
    rows = range(0, ROWS, 2)
    scores = [None if i % 6 == 0 else i % 100 for i in rows]
    return pa.table({"sample_id": [f"s{i}" for i in rows], "score": scores})


@pytest.fixture(scope="module", params=FORMATS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Groups that cover some rows and some shards; rows hidden by versions and by a takedown."""
    folder = tmp_path_factory.mktemp("filters")
    config = ShardsConfig(format=request.param, batch_rows=100)
    store = build_store(folder / "s", SAMPLES, layout=LAYOUT, shards=config, values=values())
    takedown(store, keys=[f"a{i}" for i in range(0, 290, 3)])
    add_group(store, "marks", from_table(marks()))
    texts = {"sample_id": [f"s{i}" for i in range(320)], "caption": [f"c {i}" for i in range(320)]}
    add_group(store, "text", from_table(pa.table(texts)))
    takedown(store, keys=["a1", "a5", "a400"])
    ids = {}
    for path in filter(None, store.segments(store.snapshot())["path"].to_pylist()):
        with store.shard(path) as shard:
            ids[path] = [name for b in shard.batches() for name in b["sample_id"].to_pylist()]
    return Scene(store, ShardCache(folder / "cache"), ids)


CLAUSES = st.recursive(
    st.sampled_from(CONDITIONS),
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda three: f"({three[0]}) {three[1]} ({three[2]})"
        ),
    ),
    max_leaves=4,
)


@given(where=CLAUSES)
@settings(max_examples=40, deadline=None)
def test_a_filter_shows_what_a_scan_finds(scene: Scene, where: str) -> None:
    """Nulls, NaNs, hidden rows, and columns of groups of which samples have no values."""
    opened = scene.open(where)
    assert scene.found(opened) == scene.scanned(where)
    assert opened.where == str(parse(where))


@pytest.mark.parametrize("where", CONDITIONS)
def test_an_older_version_is_filtered_without_what_was_taken_down_since(
    scene: Scene, where: str
) -> None:
    """Version 1 has no tombstones of its own, and no groups."""
    if "score" in where or "caption" in where:
        with pytest.raises(JobError, match=r"feed\.where: unknown column"):
            scene.open(where, 1)
        return
    opened = scene.open(where, 1)
    assert scene.found(opened) == scene.scanned(where, 1)
    assert not {"s0", "s3", "s5", "s400"}.intersection(scene.found(opened))


def test_groups_that_are_read_and_those_that_are_filtered_by_both_count(scene: Scene) -> None:
    """Shown are samples with values in both; uncovered are those without in the one read."""
    opened = scene.open("score > 10", columns=("caption", "sample_id"))
    assert opened.groups == ("text",)
    assert scene.found(opened) == scene.scanned("score > 10", groups=("text",))
    assert (
        opened.uncovered == scene.open("").plan.rows - scene.open("caption is not null").plan.rows
    )
    assert scene.open("score > 10").uncovered == 0


def test_every_second_row_is_kept_as_bits(scene: Scene) -> None:
    """The plan of a filter that cuts the rows up has no entry a run."""
    opened = scene.open("width between 0 and 500")
    assert isinstance(opened.plan.index, Selection)
    shards, rows = opened.plan.locate(np.arange(opened.plan.rows))
    assert opened.plan.logical(shards, rows).tolist() == list(range(opened.plan.rows))


def test_a_filter_is_part_of_the_plan_and_not_of_the_reading(scene: Scene) -> None:
    """An epoch has exactly the samples that match, and a feed of them restores at every step."""
    where = "aesthetic > 5 or licence = 'cc0'"
    wanted = scene.scanned(where)

    def feed() -> Feed:
        return Feed(
            scene.store, batch_size=16, where=where, epochs=2, drop_last=False, cache=scene.cache
        )

    seen = [name for batch in feed() for name in batch["sample_id"]]
    steps = len(feed())
    assert feed().rows == len(wanted)
    assert steps == -(-len(wanted) // 16)
    for epoch in range(2):
        part = seen[epoch * steps * 16 : (epoch + 1) * steps * 16]
        assert sorted(part[: len(wanted)]) == sorted(wanted)
    assert_restores_at_every_step(feed, steps=5)


def test_identity_is_of_the_content_and_the_filter_beside_it(scene: Scene) -> None:
    """Without a filter the identity is what it was before there were any."""
    plain, spelled, other = scene.open(""), scene.open("width > 5 and true"), scene.open("width>5")
    assert plain.identity == spelled.identity == other.identity
    assert (plain.where, spelled.where, other.where) == ("", "width > 5", "width > 5")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("astetic > 5", r"feed\.where: unknown column astetic; .*aesthetic"),
        ("captoin = 'x'", r"feed\.where: unknown column captoin; .*caption"),
        ("aesthetic >", r"feed\.where: "),
        ("aesthetic = 'much'", r"feed\.where: column aesthetic is a number"),
        ("image = 3", r"feed\.where: column image is of type .*cannot be compared"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(scene: Scene, where: str, message: str) -> None:
    """Unknown columns with the nearest one, also of groups; types; texts that are no filter."""
    with pytest.raises(JobError, match=message) as caught:
        scene.open(where)
    assert caught.value.path == "feed.where"


def test_a_filter_that_shows_nothing_is_named(scene: Scene) -> None:
    """The feed says which filter it was."""
    with pytest.raises(StoreError, match="has no samples where width > 5000"):
        Feed(scene.store, batch_size=2, where="width > 5000", cache=scene.cache)


def test_rows_that_were_committed_are_those_that_are_filtered(tmp_path: Path) -> None:
    """A file with other rows than the manifest says is damage, not a smaller shard."""
    store = build_store(tmp_path / "s", [5])
    longer = build_store(tmp_path / "t", [6])
    files = [next(Path(made.uri, DATA).iterdir()) for made in (store, longer)]
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(CorruptShardError, match="has 6 rows, committed were 5"):
        open_snapshot(
            store,
            store.snapshot(),
            Wanted(None, (), None, "sample_id != 'x'"),
            ShardCache(tmp_path / "cache"),
        )
