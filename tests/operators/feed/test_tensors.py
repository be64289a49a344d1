from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenmill.feed import Feed
from tokenmill.feed.columns import Batch
from tokenmill.feed.tensors import (
    PlainMover,
    TensorForm,
    TorchFeed,
    each_tensor,
    moved,
    mover,
)
from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill_schemas.errors import JobError

FORM = TensorForm({"image": "index", "bits": "bits", "brain": "bfloat16", "latent": "float"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two small shards."""
    return build_store(tmp_path_factory.mktemp("tensors") / "store", [40, 41])


@pytest.mark.parametrize(
    ("name", "values", "want"),
    [
        ("image", np.arange(3, dtype=np.uint8), torch.int64),
        ("image", np.arange(3, dtype=np.uint16), torch.int64),
        ("image", np.arange(3, dtype=np.int32), torch.int64),
        ("image", np.arange(3, dtype=np.float32), torch.float32),
        ("image", np.array([True, False]), torch.bool),
        ("bits", np.array([0, 1], np.uint8), torch.uint8),
        ("bits", np.array([-1, 1], np.int8), torch.int8),
        ("latent", np.ones(2, np.float16), torch.float16),
        ("brain", np.array([0x3F80, 0xC000], np.uint16), torch.bfloat16),
        ("brain", np.array([1.0, -2.0], np.float32), torch.float32),
        ("position_ids", np.arange(3, dtype=np.int32), torch.int32),
        ("cu_seqlens", np.arange(3, dtype=np.int32), torch.int32),
        ("mask", np.array([[True], [False]]), torch.bool),
        ("made", np.arange(3, dtype=np.uint16), torch.int64),
        ("made", np.arange(3, dtype=np.uint32), torch.int64),
        ("made", np.arange(3, dtype=np.uint8), torch.uint8),
        ("made", np.arange(3, dtype=np.float64), torch.float64),
    ],
)
def test_arrays_keep_their_values_and_get_a_type_to_work_with(
    name: str, values: np.ndarray[Any, Any], want: torch.dtype
) -> None:
    """Ids as embeddings take them, bits of bfloat16 as such, anything else as it is."""
    tensor = FORM({name: values})[name]
    assert tensor.dtype == want
    assert tensor.shape == values.shape
    if want == torch.bfloat16:
        values = np.array([1.0, -2.0])
    assert tensor.tolist() == values.tolist()


def test_stored_ids_keep_their_narrow_type() -> None:
    """And share the batch's memory, as all do that need no other type."""
    values = np.arange(6, dtype=np.uint16)
    latent = np.ones(3, np.float32)
    form = TensorForm({"image": "index", "latent": "float"}, "stored")
    got = form({"image": values, "latent": latent})
    assert got["image"].dtype == torch.uint16
    assert got["image"].data_ptr() == values.ctypes.data
    assert got["latent"].data_ptr() == latent.ctypes.data


def test_text_lists_and_other_things_pass() -> None:
    """Lists stay lists, of tensors or of text; what is no array stays what it is."""
    batch: Any = {
        "caption": np.array(["a", None], object),
        "name": np.array(["x", "yz"]),
        "image": [np.arange(3, dtype=np.uint8), np.zeros((0, 2), np.uint8)],
        "words": [np.array(["a"], object)],
        "step": 7,
    }
    got = FORM(batch)
    assert got["caption"] == ["a", None]
    assert got["name"] == ["x", "yz"]
    assert [t.dtype for t in got["image"]] == [torch.int64] * 2
    assert [tuple(t.shape) for t in got["image"]] == [(3,), (0, 2)]
    assert got["words"] == [["a"]]
    assert got["step"] == 7


def test_memory_that_a_tensor_cannot_share_is_copied() -> None:
    """Read-only arrays, and views that run backwards."""
    fixed = np.arange(4, dtype=np.int32)
    fixed.flags.writeable = False
    got = FORM({"a": fixed, "b": np.arange(4, dtype=np.int32)[::-1]})
    got["a"][0] = 9
    assert fixed[0] == 0
    assert got["b"].tolist() == [3, 2, 1, 0]


def test_pinned_tensors_are_widened_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy: into pinned memory of the type that is wanted."""
    asked: list[tuple[torch.dtype, bool]] = []
    empty = torch.empty

    def fake(*args: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        asked.append((options["dtype"], pin_memory))
        return empty(*args, **options)

    monkeypatch.setattr(torch, "empty", fake)
    form = TensorForm(FORM.kinds, pin=True)
    batch: Batch = {
        "image": np.arange(4, dtype=np.uint16),
        "brain": np.array([0x3F80], np.uint16),
        "latent": np.ones(2, np.float32)[::-1],
    }
    got = form(batch)
    assert asked == [(torch.int64, True), (torch.bfloat16, True), (torch.float32, True)]
    assert got["image"].tolist() == [0, 1, 2, 3]
    assert got["brain"].tolist() == [1.0]


def test_pinning_wants_cuda(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a device it has no effect; a CUDA device pins unasked."""
    feed = Feed(store, batch_size=8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not TorchFeed(feed, pin_memory=True)._form.pin
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TorchFeed(feed, pin_memory=True)._form.pin
    assert TorchFeed(feed, device="cuda:0")._form.pin
    assert not TorchFeed(feed, device="cpu")._form.pin


def test_a_device_gets_every_tensor(store: Store) -> None:
    """Also those in lists; text goes with them."""
    feed = Feed(store, batch_size=8, epochs=1)
    batches = list(TorchFeed(feed, device="meta"))
    assert len(batches) == len(feed) == feed.step
    assert batches[0]["image"].device.type == "meta"
    assert len(batches[0]["sample_id"]) == 8
    there = PlainMover(torch.device("meta")).start({"image": [torch.ones(1), [torch.ones(2)]]})
    assert each_tensor(there, torch.zeros_like)["image"][1][0].device.type == "meta"
    assert isinstance(mover(torch.device("cpu")), PlainMover)


class Recorder:
    """A mover that notes what happens when."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def start(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Note a start."""
        self.events.append(f"start {batch['n']}")
        return batch

    def finish(self, started: dict[str, Any]) -> dict[str, Any]:
        """Note an end."""
        self.events.append(f"finish {started['n']}")
        return started


def test_one_batch_is_on_its_way_while_another_is_used() -> None:
    """The copy of the next begins before this one is given out, and none is lost at the end."""
    by = Recorder()

    def source() -> Iterator[dict[str, Any]]:
        for n in range(3):
            yield {"n": n}

    got = []
    for batch in moved(source(), by):
        got.append(batch["n"])
        by.events.append(f"use {batch['n']}")
    assert got == [0, 1, 2]
    assert by.events == [
        "start 0", "start 1", "finish 0", "use 0", "start 2", "finish 1", "use 1", "finish 2",
        "use 2",
    ]  # fmt: skip
    assert list(moved([], by)) == []


def test_what_was_read_ahead_is_not_counted(store: Store) -> None:
    """The state is after the batch that was given out; a new pass goes on there."""
    want = [batch["sample_id"] for batch in Feed(store, batch_size=8, epochs=2).as_torch()]
    torch_feed = TorchFeed(Feed(store, batch_size=8, epochs=2), device="cpu")
    got = [batch["sample_id"] for batch in islice(torch_feed, 3)]
    assert torch_feed.feed.step == 3
    state = torch_feed.state_dict()
    got += [batch["sample_id"] for batch in torch_feed]
    assert got == want
    torch_feed.load_state_dict(state)
    assert next(iter(torch_feed))["sample_id"] == want[3]
    assert len(torch_feed) == 81 // 8


def test_only_the_newest_pass_is_good(store: Store) -> None:
    """One that is overtaken says so."""
    torch_feed = Feed(store, batch_size=8).as_torch()
    old = iter(torch_feed)
    next(old)
    next(iter(torch_feed))
    with pytest.raises(JobError, match="take that iterator"):
        next(old)


def test_unknown_words_for_ids_are_refused(store: Store) -> None:
    """At once, not in the middle of training."""
    word: Any = "int32"
    with pytest.raises(JobError, match="int64"):
        TorchFeed(Feed(store, batch_size=8), ids=word)


def test_no_batch_is_lost_on_a_small_store(tmp_path: Path) -> None:
    """A feed of one batch gives that one."""
    feed = Feed(build_store(tmp_path / "store", [8]), batch_size=8, epochs=1)
    assert len(list(TorchFeed(feed, device="cpu"))) == 1
