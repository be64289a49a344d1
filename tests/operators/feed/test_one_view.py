"""One of an asset's views an epoch: each asset once, each view in its turn."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.feed import Feed, Mixture, Part
from tokenmill.store import Store
from tokenmill.store.takedown import takedown
from tokenmill.testing.feed import assert_restores_at_every_step
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.errors import JobError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Thirty assets of five views, then seven of two; one sample and one whole asset are gone."""
    made = Store.of(str(tmp_path_factory.mktemp("views") / "store"))
    add_assets(made, {f"a{i:02d}": "1" for i in range(30)}, views=5)
    add_assets(made, {f"b{i:02d}": "1" for i in range(7)}, views=2)
    takedown(made, keys=["a03"], reason="asked for")
    takedown(made, keys=["a04#0", "a05#4", "a06#1", "a06#2"], by="sample_id", reason="asked for")
    return made


def names(feed: Feed, steps: int) -> list[str]:
    """The samples of the next steps."""
    return [str(name) for batch in islice(feed, steps) for name in batch["sample_id"]]


def test_an_epoch_shows_every_asset_once(store: Store) -> None:
    """As one of its views that are shown, whichever are hidden."""
    feed = Feed(store, batch_size=4, one_view=True)
    assert len(feed) == 36 // 4
    hidden = {"a04#0", "a05#4", "a06#1", "a06#2"}
    for _ in range(3):
        shown = names(feed, len(feed))
        assert len({name[:3] for name in shown}) == len(shown) == 36
        assert not hidden & set(shown)
        assert not any(name.startswith("a03") for name in shown)


def test_every_view_comes_about_as_often(store: Store) -> None:
    """Over many epochs each view of five has a fifth; the order of assets changes, too."""
    feed = Feed(store, batch_size=36, one_view=True, columns=("sample_id",))
    views: Counter[str] = Counter()
    for _ in range(120):
        views.update(name[4] for name in names(feed, 1) if name[0] == "a" and name[:3] >= "a07")
    total = sum(views.values())
    assert total == 120 * 23
    for view in "01234":
        assert abs(views[view] / total - 0.2) < 0.03


def test_rows_are_named_without_reading(store: Store) -> None:
    """`samples_of` and `steps_of` know which view a step shows."""
    feed = Feed(store, batch_size=6, one_view=True, seed=2)
    ids = [n for batch in store.at().scan(["sample_id"]) for n in batch.column(0).to_pylist()]
    for step in range(12):
        shown = [ids[row] for row in feed.samples_of(step).rows]
        assert shown == names(feed, 1)
        for name in shown[:2]:
            assert step in feed.steps_of(name, epochs=range(2))
    every = [feed.steps_of(f"a10#{view}", epochs=range(4)) for view in range(5)]
    assert sum(map(len, every)) == 4


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_ranks_and_any_restart(store: Store, world_size: int) -> None:
    """It is as elastic as everything else."""
    options: dict[str, Any] = {"batch_size": 6, "one_view": True, "drop_last": False}
    one = Feed(store, **options)
    ranks = [Feed(store, rank=r, world_size=world_size, **options) for r in range(world_size)]
    for step, parts in enumerate(islice(zip(*ranks, strict=True), 2 * len(one))):
        together = [name for part in parts for name in part["sample_id"]]
        assert together == names(one, 1), step
    assert_restores_at_every_step(lambda: Feed(store, **options), steps=8)
    state = one.state_dict()
    assert len(json.dumps(state)) < 300
    with pytest.raises(JobError, match="one_view"):
        Feed(store, batch_size=6, drop_last=False).load_state_dict(state)


def test_in_a_mixture_with_a_filter(store: Store) -> None:
    """A filter decides which views there are to choose from."""
    crops = Part(store, where="sample_id not like '%#0' and sample_id not like '%#1'")
    feed = Feed(Mixture([crops, Part(store)]), batch_size=8, one_view=True)
    first = [
        name
        for step, batch in zip(range(9), feed, strict=False)
        for name, part in zip(batch["sample_id"], feed.samples_of(step).parts, strict=True)
        if part == 0
    ]
    assert len(first) == 36
    assert all(name[4] in "234" for name in first)
    assert len(np.unique([name[:3] for name in first[:29]])) == 29


def test_what_has_no_single_samples_is_refused(store: Store, tmp_path: Path) -> None:
    """Buckets make batches of samples, not of assets."""
    with pytest.raises(JobError, match="neither"):
        Feed(store, batch_size=2, one_view=True, buckets="image")
