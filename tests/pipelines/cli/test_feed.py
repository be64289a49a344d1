"""What `tokenmill feed` says of what a training would see, and of what that would cost."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.pipelines.cli.conftest import call

from tokenmill.feed import Feed, Mixture, Packing, Part
from tokenmill.feed.estimate import estimate
from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill.testing.stores import add_assets
from tokenmill_pipelines.cli import feed_tables
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

IMAGE = Stream("image", "index", (Axis("n", 16),), (1000,))
TEXT = Stream("text", "index", (Axis("n"),), (1000,))
LAYOUT = ShardLayout(TokenSpec((IMAGE, TEXT)), extras=(pa.field("label", pa.int32()),))
LABELS = {"label": [row // 40 for row in range(400)]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four hundred samples of ten classes, in two shards."""
    folder = tmp_path_factory.mktemp("feed") / "store"
    return build_store(folder, [250, 150], layout=LAYOUT, values=LABELS).uri


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A hundred more."""
    folder = tmp_path_factory.mktemp("feed") / "other"
    return build_store(folder, [100], layout=LAYOUT).uri


def said(*args: str) -> Any:
    """Return the document of a call that must succeed."""
    outcome = call("feed", *args, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.document()


def test_a_plan_is_the_estimate_of_the_same_feed(store: str) -> None:
    """With the settings of the command line; nothing is read."""
    value = said(store, "--plan", "--batch-size", "32", "--world-size", "4", "--classes", "label")
    found = estimate(Feed(store, batch_size=32, world_size=4), classes="label").to_json()
    assert {name: value[name] for name in found} == _plain(found)
    assert (value["shuffle"], value["classes"]) == ("block", "label")


def test_a_plan_is_told_in_units_that_people_read(store: str, other: str) -> None:
    """Every line says what it is about."""
    shown = call("feed", store, "--plan", "--batch-size", "32", "--classes", "label").out
    assert f"store    {store}@1\n" in shown
    assert "samples  400 shown, 384 in an epoch, 16 left out\n" in shown
    assert "steps    12 in an epoch, each of 32 samples\n" in shown
    assert "values of label" in shown
    assert "6,144 image" in shown
    packed = call("feed", store, "--plan", "--batch-size", "4", "--pack", "text:32:eos=2").out
    assert "each of 4 windows with " in packed
    assert "of the windows of text" in packed
    buckets = call("feed", store, "--plan", "--buckets", "text", "--world-size", "2").out
    assert "every step has one shape" in buckets
    assert "each of 8 samples, 4 on each of 2 ranks" in buckets
    mixed = call("feed", store, "--plan", "--mix", f"{other}=0.25").out
    assert "80 %" in mixed
    assert other in mixed


def test_a_plan_of_a_remote_store_tells_requests_and_what_to_cache(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what a cache that is too small would cost."""
    value = said(store, "--plan") | {"exact": False}
    remote = {
        "requests": 1234,
        "fetched_bytes": 5 * 10**9,
        "first_requests": 12,
        "first_bytes": 3 * 10**6,
        "window_bytes": 2 * 10**8,
        "cache_bytes": 5 * 10**9,
        "again_bytes": 9 * 10**9,
    }
    feed_tables.plan(value | {"remote": remote})
    shown = capsys.readouterr().out
    assert "12 requests, 3 MB a rank" in shown
    assert "5 GB by 1,234 requests, an epoch and node" in shown
    assert "needs 5 GB to fetch nothing twice; with 200 MB, 9 GB an epoch" in shown
    assert "about " in shown
    feed_tables.plan(value | {"remote": remote | {"cache_bytes": 2 * 10**8}})
    assert "needs 200 MB to fetch nothing twice\n" in capsys.readouterr().out


def test_a_step_names_its_samples(store: str) -> None:
    """In the order of the batch, which the ranks share."""
    value = said(store, "--step", "3", "--batch-size", "6", "--world-size", "2", "--seed", "5")
    feed = Feed(store, batch_size=6, seed=5)
    feed.seek(3)
    batch = next(iter(feed))
    assert [sample["sample_id"] for sample in value["samples"]] == list(batch["sample_id"])
    assert [sample["rank"] for sample in value["samples"]] == [0, 0, 0, 1, 1, 1]
    assert (value["step"], value["epoch"]) == (3, 0)
    assert all(sample["asset_key"] == f"a{sample['sample_id'][1:]}" for sample in value["samples"])
    files = {entry.path for entry in Store.open(store).storage.list("data")}
    assert {sample["shard"] for sample in value["samples"]} <= files
    shown = call("feed", store, "--step", "3", "--batch-size", "6", "--world-size", "2")
    assert "step 3, in epoch 0" in shown.out
    assert shown.out.count(".arrow") == 6
    many = call("feed", store, "--step", "0", "--batch-size", "100").out
    assert "and 36 more; --json lists all" in many


def test_a_packed_step_says_which_window(store: str) -> None:
    """All the samples of each, as the batch has them."""
    args = ("--batch-size", "2", "--world-size", "2", "--pack", "text:16:bos=7")
    value = said(store, "--step", "1", *args)
    feed = Feed(store, batch_size=2, packing=Packing("text", 16, bos=7))
    feed.seek(1)
    windows = next(iter(feed))["sample_id"]
    for number, names in enumerate(windows):
        mine = [sample for sample in value["samples"] if sample["window"] == number]
        assert [sample["sample_id"] for sample in mine] == list(names)
        assert {sample["rank"] for sample in mine} == {number}
    assert "window" in call("feed", store, "--step", "1", *args).out


def test_steps_that_show_a_sample_or_an_asset(store: str) -> None:
    """One in an epoch, and it holds the sample; none is said to be none."""
    (step,) = said(store, "--steps-of", "s77")["steps"]
    samples = said(store, "--step", str(step))["samples"]
    assert "s77" in [sample["sample_id"] for sample in samples]
    assert said(store, "--steps-of", "a77", "--by", "asset_key")["steps"] == [step]
    assert f"steps      {step}\n" in call("feed", store, "--steps-of", "s77").out
    hidden = call("feed", store, "--steps-of", "s77", "--where", "label > 5")
    assert "none: it is not shown" in hidden.out


def test_stores_are_mixed_by_weight(store: str, other: str) -> None:
    """As a mixture of the same parts gives them."""
    value = said(store, "--mix", f"{other}@1=0.5", "--batch-size", "6", "--batches", "1")
    mixture = Mixture((Part(store, 1.0), Part(other, 0.5)))
    assert value["shown"][0]["sample_ids"] == list(
        next(iter(Feed(mixture, batch_size=6)))["sample_id"]
    )
    samples = said(store, "--mix", other, "--step", "0", "--batch-size", "6")["samples"]
    assert sorted({sample["store"] for sample in samples}) == sorted([store, other])
    assert sum(sample["store"] == other for sample in samples) == 3
    assert "store" in call("feed", store, "--mix", other, "--step", "0").out


def test_filters_orders_and_shapes_are_the_feeds(store: str) -> None:
    """Each flag reaches it."""
    few = said(store, "--where", "label = 3", "--columns", "label", "--batches", "5")
    assert {batch["columns"]["label"] for batch in few["shown"]} == {3}
    plain = said(store, "--shuffle", "none", "--batches", "1", "--batch-size", "3")
    assert plain["shown"][0]["sample_ids"] == ["s0", "s1", "s2"]
    one = said(store, "--buckets", "text", "--batches", "1")["shown"][0]["streams"]["text"]
    assert isinstance(one["shape"][1], int)


def test_packed_batches_are_counted_in_samples_and_tokens(store: str) -> None:
    """Not in windows, and without the padding."""
    args = ("--pack", "text:32:eos=2,long=truncate", "--batch-size", "4", "--batches", "3")
    value = said(store, *args)
    feed = Feed(store, batch_size=4, packing=Packing("text", 32, eos=2))
    batches = [batch for _, batch in zip(range(3), feed, strict=False)]
    samples = sum(len(names) for batch in batches for names in batch["sample_id"])
    ids = sum(np.count_nonzero(batch["segment_ids"]) for batch in batches)
    assert (value["samples"], value["tokens"]) == (samples, ids + 16 * samples)
    shown = call("feed", store, *args).out
    assert "uint16[4, 32]" in shown
    assert "position_ids" in shown


def test_a_followed_store_is_read_to_its_tag(tmp_path: Path) -> None:
    """While it grows; each version is told when it is gone on to."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, {f"a{i}": "1" for i in range(20)})

    def grow() -> None:
        time.sleep(0.5)
        add_assets(made, {f"b{i}": "1" for i in range(12)})
        made.tag("whole")

    writer = threading.Thread(target=grow)
    writer.start()
    outcome = call("feed", made.uri, "--follow", "whole", "--batch-size", "4", "--json")
    writer.join()
    value = outcome.document()
    assert (value["batches"], value["samples"], value["number"]) == (8, 32, 2)
    assert outcome.err.count('"follow"') == 2
    late = call("feed", made.uri, "--follow", "whole", "--batch-size", "4", "--step", "8")
    assert (late.code, "there is no more ever" in late.err) == (2, True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--plan", "--step", "1"], "one at a time"),
        (["--classes", "label"], "--classes is for --plan"),
        (["--plan", "--classes", "lable"], "did you mean 'label'"),
        (["--plan", "--follow", "whole"], "without follow"),
        (["--pack", "text"], "it needs a length, as in caption:4096"),
        (["--pack", "text:64:eoss=2"], "there is no 'eoss'; did you mean 'eos'"),
        (["--pack", "text:64:eos=two"], "'two' is no number"),
        (["--pack", "tex:64"], "which is not read"),
        (["--mix", "elsewhere=often"], "'often' is no weight"),
        (["--where", "label >"], "expected a column or a value"),
        (["--shuffle", "some"], "'some' is not one of 'block', 'full', 'none'"),
        (["--pack", "text:64", "--buckets", "text"], "packed windows have one shape already"),
    ],
)
def test_a_slip_is_said_in_one_line(store: str, args: list[str], words: str) -> None:
    """With what to do instead."""
    outcome = call("feed", store, *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
