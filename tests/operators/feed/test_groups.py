"""Feeds of streams and columns that groups added: the right values, and no silent zeros."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.store.groups import add_group, drop_group, from_store, from_table
from tokenmill.testing.feed import assert_restores_at_every_step, build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError, StoreError
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SAMPLES = [130, 0, 57, 1, 60]
ROWS = sum(SAMPLES)
#: A second tokenizer: bits in one shape, and ids in any.
OTHER = ShardLayout(
    TokenSpec(
        (
            Stream("codes", "bits", (Axis("n", 4),), width_bits=5),
            Stream("parts", "index", (Axis("n"),), (300,)),
        )
    )
)
FORMATS: tuple[Literal["arrow", "webdataset"], ...] = ("arrow", "webdataset")


def captions(numbers: range) -> pa.Table:
    """A caption and a score of the samples of these numbers."""
    return pa.table(
        {
            "sample_id": [f"s{i}" for i in numbers],
            "caption": [f"caption {i}" for i in numbers],
            "score": [i / 4 for i in numbers],
        }
    )


def second(folder: Path, samples: list[int], kind: Literal["arrow", "webdataset"]) -> Store:
    """A store of other tokens of the same samples, cut into other shards."""
    return build_store(folder, samples, layout=OTHER, shards=ShardsConfig(format=kind))


@pytest.fixture(scope="module", params=FORMATS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Captions of every third sample below 180, and other tokens of the first 190."""
    folder = tmp_path_factory.mktemp("groups")
    made = build_store(folder / "store", SAMPLES, shards=ShardsConfig(format=request.param))
    add_group(made, "text", from_table(captions(range(0, 180, 3))))
    other = second(folder / "other", [100, 90], request.param)
    add_group(made, "semantic", from_store(other.at(), {"parts": "sem", "codes": "bits"}))
    return made


def truth(store: Store, columns: list[str]) -> dict[str, dict[str, Any]]:
    """The values of every sample by its id, read without any code of the feed or the groups."""
    found: dict[str, dict[str, Any]] = {}
    for path in store.segments(store.snapshot(), ["path"]).column("path").to_pylist():
        if path:
            with store.shard(path) as shard:
                for row in pa.Table.from_batches(shard.batches()).select(columns).to_pylist():
                    found[row["sample_id"]] = row
    return found


def test_values_of_groups_go_with_their_samples(store: Store) -> None:
    """Streams and columns of two groups and of the store, in one batch, each of its own sample."""
    other = Store.open(str(Path(store.uri).parent / "other"))
    tokens = truth(other, ["sample_id", "parts"])
    own = truth(store, ["sample_id", "image"])
    feed = Feed(
        store,
        batch_size=10,
        streams=("sem", "image", "bits"),
        columns=("score", "sample_id", "caption"),
        epochs=1,
        drop_last=False,
        threads=1,
    )
    assert (feed.rows, feed.uncovered) == (60, ROWS - 60)
    assert [s.name for s in feed.streams] == ["sem", "image", "bits"]
    seen: set[str] = set()
    for batch in feed:
        assert list(batch) == ["sem", "image", "bits", "score", "sample_id", "caption"]
        assert np.shape(batch["bits"]) == (10, 4, 5)
        for i, name in enumerate(batch["sample_id"]):
            number = int(str(name)[1:])
            assert batch["caption"][i] == f"caption {number}"
            assert batch["score"][i] == number / 4
            assert batch["sem"][i].tolist() == tokens[name]["parts"]
            assert batch["image"][i].tolist() == own[name]["image"]
            seen.add(name)
    assert seen == {f"s{i}" for i in range(0, 180, 3)}


def test_a_feed_without_groups_shows_every_sample(store: Store) -> None:
    """What groups lack counts only where they are asked for; their streams are not by default."""
    feed = Feed(store, batch_size=8, epochs=1)
    assert (feed.rows, feed.uncovered) == (ROWS, 0)
    assert list(next(iter(feed))) == ["image", "sample_id"]
    assert "groups" not in feed.state_dict()


def test_only_groups_may_be_read(store: Store) -> None:
    """Nothing of the shards themselves: the samples that have values, in manifest order."""
    options: dict[str, Any] = {"streams": ("bits",), "columns": (), "shuffle": "none"}
    feed = Feed(store, batch_size=190, threads=0, **options)
    assert feed.rows == 190
    assert list(next(iter(feed))) == ["bits"]


def test_a_state_names_its_groups_and_refuses_others(store: Store) -> None:
    """A feed that reads the captions shows other samples than one that does not."""
    state = Feed(store, batch_size=5, columns=("caption",)).state_dict()
    assert state["groups"] == ["text"]
    Feed(store, batch_size=5, columns=("score",)).load_state_dict(json.loads(json.dumps(state)))
    with pytest.raises(JobError, match=r"column groups \['text'\], this feed reads \[\]"):
        Feed(store, batch_size=5).load_state_dict(state)


def test_restored_at_every_step_with_groups(store: Store) -> None:
    """Resuming is exact with what is not covered left out."""

    def make() -> Feed:
        return Feed(store, batch_size=20, streams=("image", "sem"), columns=("caption",), threads=1)

    assert_restores_at_every_step(make, steps=5)


def test_unknown_names_are_told_among_those_of_groups(store: Store) -> None:
    """The nearest name may be a group's."""
    with pytest.raises(JobError, match="did you mean 'caption'"):
        Feed(store, batch_size=5, columns=("captoin",))
    with pytest.raises(JobError, match="no 'semm'; did you mean 'sem'"):
        Feed(store, batch_size=5, streams=("image", "semm"))


def test_dropped_groups_are_gone_from_the_next_version_only(tmp_path: Path) -> None:
    """Their columns cannot be read any more, but from the version before."""
    store = build_store(tmp_path / "store", [20])
    version = add_group(store, "text", from_table(captions(range(20)))).snapshot
    drop_group(store, "text")
    with pytest.raises(JobError, match="no 'caption'"):
        Feed(store, batch_size=5, columns=("caption",))
    assert Feed(store, ref=version.number, batch_size=5, columns=("caption",)).rows == 20


def test_new_shards_are_not_covered_and_torch_gets_the_types_of_groups(tmp_path: Path) -> None:
    """Appended samples wait for the group to be extended; bfloat16 of a group is bfloat16."""
    torch = pytest.importorskip("torch")
    axes = (Axis("n", 3),)
    layout = ShardLayout(TokenSpec((Stream("z", "float", axes, channels=2, dtype="bfloat16"),)))
    other = build_store(tmp_path / "other", [30], layout=layout)
    store = build_store(tmp_path / "store", [30])
    add_group(store, "latent", from_store(other.at()))
    build_store(tmp_path / "store", [30, 12])
    feed = Feed(store, batch_size=6, streams=("image", "z"), threads=1)
    assert (feed.rows, feed.uncovered) == (30, 42)
    batch = next(iter(feed.as_torch()))
    assert batch["z"].dtype == torch.bfloat16
    assert batch["z"].shape == (6, 3, 2)


def test_a_group_without_values_shows_nothing(tmp_path: Path) -> None:
    """Of two groups that cover different shards no sample has values in both: said in words."""
    store = build_store(tmp_path / "store", [5, 5])
    add_group(store, "one", from_table(captions(range(5)).drop_columns("score")))
    other = captions(range(5, 10)).select(["sample_id", "score"])
    add_group(store, "two", from_table(other))
    with pytest.raises(StoreError, match="no samples with values in the column groups one, two"):
        Feed(store, batch_size=1, columns=("caption", "score"))
