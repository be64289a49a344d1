"""Transforms inside of a feed: the same shaped batches for any ranks, threads and restarts."""

from __future__ import annotations

import pickle
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.feed import Feed
from tokenmill.feed.shaping import (
    ChooseCaption,
    DropCondition,
    Flatten,
    KeepPrefix,
    MaskTokens,
    Pad,
    Perturb,
    Piece,
    RandomOrder,
    TeacherInput,
    nearest_codes,
)
from tokenmill.store import Store
from tokenmill.store.codebooks import put_codebook
from tokenmill.testing.feed import assert_restores_at_every_step, build_store, same_batch
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

LEVELS = ((1, 1), (2, 2), (3, 3))
GRID = Stream("image", "index", (Axis("h", 4), Axis("w", 4)), (100,))
PREFIX = Stream("prefix", "index", (Axis("n", 16),), (300,), order="prefix", min_prefix=1)
PYRAMID = Stream("pyramid", "index", (Axis("n", 14),), (50,), levels=LEVELS)
RAGGED = Stream("mesh", "index", (Axis("n"),), (128,), order="sequence")
EXTRAS = (
    pa.field("short", pa.string()),
    pa.field("long", pa.string()),
    pa.field("label", pa.int32()),
)
LAYOUT = ShardLayout(TokenSpec((GRID, PREFIX, PYRAMID, RAGGED)), extras=EXTRAS)
COLUMNS = ("sample_id", "short", "long", "label")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of several kinds of streams, and a codebook of the pyramid."""
    built = build_store(tmp_path_factory.mktemp("shaped") / "store", [60, 20], layout=LAYOUT)
    codes = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    put_codebook(built, built.snapshot().fingerprint, {"pyramid": codes})
    return built


def transforms(store: Store) -> tuple[Any, ...]:
    """One of most families, the later ones on what the earlier ones gave."""
    spec, book = store.snapshot().spec, store.codebook()
    return (
        Perturb("pyramid", nearest_codes(book["pyramid"], 3), 0.2),
        TeacherInput.of(spec["pyramid"], book),
        KeepPrefix.of(spec["prefix"], "uniform"),
        ChooseCaption(("short", "long")),
        DropCondition((("caption", ""), ("label", 1000)), 0.3),
        Flatten((Piece.of(spec["image"], begin="boi"),), text_vocab=50, specials=("boi",)),
        RandomOrder("image"),
        MaskTokens("tokens", 151),
        Pad("mesh", 12, pad=130, begin=128, end=129),
    )


def feed(store: Store, **settings: Any) -> Feed:
    """A feed of the store with all transforms."""
    plain = {"batch_size": 12, "columns": COLUMNS, "transforms": transforms(store)}
    return Feed(store, **{**plain, **settings})


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("threads", [0, 2])
def test_ranks_share_the_shaped_batch(store: Store, world: int, threads: int) -> None:
    """Joined in the order of ranks the parts are what one rank alone gets."""
    ranks = [
        islice(feed(store, rank=r, world_size=world, threads=threads), 8) for r in range(world)
    ]
    for whole, *parts in zip(islice(feed(store), 8), *ranks, strict=True):
        joined = {
            name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in whole
        }
        assert same_batch(whole, dict(joined))


def test_a_restored_feed_shapes_alike(store: Store) -> None:
    """At every step, over the end of the epoch."""
    assert_restores_at_every_step(lambda: feed(store, threads=0), steps=8)


def test_shapes_as_stated(store: Store) -> None:
    """What a trainer gets of it."""
    spec, batch = store.snapshot().spec, next(iter(feed(store)))
    kept = int(np.asarray(batch["prefix.length"])[0])
    found = {name: (str(np.asarray(v).dtype), np.asarray(v).shape) for name, v in batch.items()}
    assert found == {
        "image": ("uint8", (12, 16)),
        "image.order": ("int64", (12, 16)),
        "prefix": (spec["prefix"].storage_dtype, (12, kept)),
        "prefix.length": ("int64", (12,)),
        "pyramid": ("int64", (12, 14)),
        "pyramid.perturbed": ("bool", (12, 14)),
        "pyramid.teacher": ("float32", (12, 13, 8)),
        "mesh": ("int64", (12, 12)),
        "mesh.mask": ("bool", (12, 12)),
        "mesh.length": ("int64", (12,)),
        "mesh.cut": ("bool", (12,)),
        "tokens": ("int64", (12, 17)),
        "tokens.mask": ("bool", (12, 17)),
        "tokens.targets": ("int64", (12, 17)),
        "caption": ("object", (12,)),
        "caption.dropped": ("bool", (12,)),
        "label": ("int64", (12,)),
        "sample_id": ("object", (12,)),
        "short": ("object", (12,)),
        "long": ("object", (12,)),
    }


def test_all_ranks_keep_the_same_prefix(store: Store) -> None:
    """Or they would wait for each other with other shapes."""
    two = [islice(feed(store, rank=rank, world_size=2), 10) for rank in range(2)]
    kept = [[np.asarray(batch["prefix"]).shape[1] for batch in one] for one in two]
    assert kept[0] == kept[1]
    assert len(set(kept[0])) > 3


def test_a_transform_that_does_not_fit_says_so_at_the_first_batch(store: Store) -> None:
    """With what the batch has."""
    wrong = Feed(store, batch_size=4, transforms=(RandomOrder("picture"),))
    with pytest.raises(JobError, match=r"feed\.transforms: the batch has no 'picture'"):
        next(iter(wrong))


def test_a_feed_with_transforms_pickles(store: Store) -> None:
    """Data loaders that spawn workers send it to them."""
    copy = pickle.loads(pickle.dumps(feed(store)))
    assert same_batch(next(iter(copy)), next(iter(feed(store))))
