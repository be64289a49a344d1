"""The ceiling on memory: who meets it, who is accused of it, and who is not."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from tokenmill.decoders.base import ClaimError, Picture
from tokenmill.testing.faults import (
    HANG_S,
    BlockMeans,
    BlockMeansEncoder,
    FaultyDecoder,
    content_of,
)
from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.views.base import ViewOf
from tokenmill.views.random_crops import RandomCrops
from tokenmill.worker.device import Device
from tokenmill.worker.gate import Hold
from tokenmill.worker.memory import Ceiling, Memory, data_bytes, trim
from tokenmill.worker.reading import ran_out
from tokenmill.worker.spec import UnitTask
from tokenmill.worker.worker import Worker
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.assemble import assemble
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.listing import list_assets, plan_units
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason
from tokenmill_schemas.job import Job, parse_job
from tokenmill_schemas.snapshot import Receipt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds to RLIMIT_DATA")

JobOf = Callable[..., Job]
LIMIT = 300 * 2**20


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that other tests have left behind, with threads that hang, are no part of these."""
    monkeypatch.setattr("tokenmill.worker.memory._CEILING", Ceiling())


def run(job: Job) -> RunResult:
    """Run a job; afterwards this process is as free as before."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    result = run_job(job, observer=SilentObserver())
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    return result


def made(job: Job, folder: Path, **replaced: Any) -> list[Receipt]:
    """Make a job's units in a store of their own, with some operators replaced."""
    root = Path(tempfile.mkdtemp(dir=folder))
    assembly = assemble(replace(job, store=replace(job.store, uri=str(root / "store"))))
    listing = list_assets(assembly, root / "listing", head=None, observer=SilentObserver())
    worker = Worker(replace(assembly.worker_spec(0.0), **replaced))
    tasks = [UnitTask(unit) for unit in plan_units(assembly, listing).units]
    receipts = [worker.run(task) for task in tasks]
    worker.close()
    return [receipt for receipt in receipts if receipt is not None]


def bad(result: RunResult) -> dict[str, str]:
    """Reasons by key."""
    return {key: reason for key, reason, _ in result.quarantine}


def test_gluttons_are_given_up_in_place_whatever_runs_beside_them(noise_job: JobOf) -> None:
    """One call or many, one decoder or several in two actors: the same store, nobody else in it."""
    faults = {"picture-0003": "hoard", "picture-0008": "gulp", "picture-0011": "hoard"}
    kinds: dict[str, dict[str, Any]] = {
        "one": {},
        "three": {"decode_threads": 3},
        "six": {"actors": 2, "decode_threads": 3, "fetch_threads": 2},
    }
    results = [
        run(
            noise_job(
                name,
                source={"count": 18},
                decoder={"faults": faults},
                limits={"asset_memory_bytes": LIMIT},
                cluster=cluster,
            )
        )
        for name, cluster in kinds.items()
    ]
    assert bad(results[0]) == dict.fromkeys(faults, "too_much_memory")
    assert {error for _, _, error in results[0].quarantine} == {
        f"takes more than limits.asset_memory_bytes = {LIMIT}"
    }
    assert results[0].done["samples"] == 15
    contents = [content_of(result.store_uri) for result in results]
    assert contents[0] == contents[1] == contents[2]


def test_a_want_of_memory_that_others_caused_accuses_nobody(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """It is read again with nothing else under way, keeps to its limit, and has its samples."""
    once = tmp_path / "once"
    once.mkdir()
    decoder = {"faults": {"picture-0003": "memory", "picture-0009": "memory"}, "once": str(once)}
    result = run(noise_job("short", decoder=decoder))
    assert len(list(once.iterdir())) == 2
    assert result.quarantine == ()
    assert content_of(result.store_uri) == content_of(run(noise_job("whole")).store_uri)


@dataclass(frozen=True)
class ShortCrops(RandomCrops):
    """Random crops that run short of memory once each picture, before view ``short_at``."""

    short_at: int = -1
    once: set[str] = field(default_factory=set)

    def views(self, media: Picture, key: str) -> Iterator[ViewOf]:
        """Yield the crops."""
        for index, view in enumerate(super().views(media, key)):
            if index == self.short_at and key not in self.once:
                self.once.add(key)
                raise MemoryError
            yield view


def test_views_that_were_sent_already_are_not_sent_twice(noise_job: JobOf, tmp_path: Path) -> None:
    """An asset that runs short amid its views is read anew and goes on where it was."""
    crops = {"kind": "random_crops", "size": 24, "count": 5}
    job = noise_job(view=crops, source={"count": 6})
    receipts = []
    for short_at in (-1, 3):
        view = ShortCrops(size=24, count=5, short_at=short_at)
        receipts += made(job, tmp_path, view=view)
        assert len(view.once) == 6 * (short_at > 0)
    assert [receipt.samples for receipt in receipts] == [30, 30]
    assert receipts[0].sha256 == receipts[1].sha256


def test_without_a_limit_a_want_of_memory_is_the_assets(noise_job: JobOf) -> None:
    """Nothing tells then whose it is; the text says so, and a retry may show."""
    job = noise_job(
        decoder={"faults": {"picture-0003": "memory"}}, limits={"asset_memory_bytes": 0}
    )
    ((key, reason, error),) = run(job).quarantine
    assert (key, reason) == ("picture-0003", "too_much_memory")
    assert "sets no limit" in error


@dataclass(frozen=True)
class Claims(FaultyDecoder):
    """Finds no memory for two pictures where all others could be read: always, or once."""

    seen: set[str] = field(default_factory=set)

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Picture:
        """Decode, or blame the picture's claim."""
        if ref.key == "picture-0002" or (ref.key == "picture-0004" and ref.key not in self.seen):
            self.seen.add(ref.key)
            raise ClaimError(Reason.CORRUPT, "it asks for too much") from MemoryError()
        return super().decode(ref, stream)


@pytest.mark.parametrize("limit", [0, LIMIT])
def test_a_claim_is_believed_when_nothing_else_is_under_way(
    noise_job: JobOf, tmp_path: Path, limit: int
) -> None:
    """What ran short only beside others has its samples; without a limit no others are told of."""
    job = noise_job(source={"count": 6}, limits={"asset_memory_bytes": limit})
    (receipt,) = made(job, tmp_path, decoder=Claims())
    accused = ["picture-0002"] if limit else ["picture-0002", "picture-0004"]
    assert [(r.asset_key, r.reason, r.error) for r in receipt.rejects] == [
        (key, "corrupt", "it asks for too much") for key in accused
    ]
    assert receipt.samples == 6 - len(accused)


class Hungry(BlockMeansEncoder):
    """An encoder that takes twice the limit while it works."""

    def encode(self, inputs: Pixels) -> Tokens:
        """Encode."""
        workspace = np.ones(2 * LIMIT, np.uint8)
        time.sleep(0.05)
        return super().encode(inputs[: len(workspace)])


class Short(BlockMeansEncoder):
    """An encoder that finds no memory the first ``times``."""

    def __init__(self, times: int) -> None:
        super().__init__(BlockMeans(), "cpu")
        self.times = times

    def encode(self, inputs: Pixels) -> Tokens:
        """Encode."""
        self.times -= 1
        if self.times >= 0:
            raise MemoryError
        return super().encode(inputs)


VIEW = np.zeros((8, 8, 3), np.uint8)


def test_an_encoder_is_not_held_to_the_limit() -> None:
    """What it needs beyond the limit it gets at its first batch; later ones find it there."""
    before = data_bytes() - trim()
    memory = Memory(LIMIT)
    encoder = Hungry(BlockMeans(), "cpu")
    device = Device(encoder, memory)
    for _ in range(2):
        ((count, tokens),) = device.submit([VIEW, VIEW]).result().pieces
        assert (count, isinstance(tokens, dict)) == (2, True)
        # Its workspace, the limit, and the little that the process has freed since.
        held = resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert 3 * LIMIT <= held - before <= 4 * LIMIT
    device.close()
    memory.close()
    assert encoder.batches == [2, 2]


@pytest.mark.parametrize(("times", "fits"), [(1, True), (2, False)])
def test_a_view_that_finds_no_memory_is_encoded_once_more_alone(times: int, fits: bool) -> None:
    """An asset at its limit leaves the encoder none, for a moment: that is not the view's fault."""
    memory = Memory(LIMIT)
    device = Device(Short(times), memory)
    ((_, tokens),) = device.submit([VIEW]).result().pieces
    assert isinstance(tokens, dict if fits else MemoryError)
    device.close()
    memory.close()


@dataclass(frozen=True)
class ShortThenHangs(FaultyDecoder):
    """Runs short of memory at ``picture-0002``, and hangs when that is read again."""

    once_more: set[str] = field(default_factory=set)

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Picture:
        """Decode."""
        if ref.key == "picture-0002":
            if ref.key not in self.once_more:
                self.once_more.add(ref.key)
                raise MemoryError
            time.sleep(4.0)
        return super().decode(ref, stream)


def test_an_asset_that_hangs_while_it_is_judged_holds_up_nobody(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """Its pass is taken from it at its deadline, with the limit that was set for it."""
    job = noise_job(
        source={"count": 6},
        limits={"asset_deadline_s": 0.6, "asset_memory_bytes": LIMIT},
        cluster={"decode_threads": 3},
    )
    start = time.monotonic()
    (receipt,) = made(job, tmp_path, decoder=ShortThenHangs())
    assert time.monotonic() - start < HANG_S / 2, "nobody waits for it to wake up"
    assert [(r.asset_key, r.reason) for r in receipt.rejects] == [("picture-0002", "deadline")]
    assert receipt.samples == 5


def test_the_limit_of_two_workers_is_not_that_of_one_twice() -> None:
    """They share a process; a limit that its user had set holds, and is there again at the end."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = data_bytes()
    own = used + 3 * LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (own, before[1]))
    try:
        one, two = Memory(LIMIT), Memory(LIMIT)
        held = resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert held <= used + LIMIT + 2**24
        with one.acquitted(Hold(one.gate)):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == own
        one.close()
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] < own
        two.close()
        two.close()
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == own
        vast = Memory(2**40)
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == own
        vast.close()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_a_want_of_memory_is_seen_behind_other_errors() -> None:
    """Decoders wrap what their libraries raise; torch tells it in words."""
    hidden = AssetError(Reason.CORRUPT, "broken data stream")
    hidden.__cause__ = OSError("no")
    hidden.__cause__.__context__ = MemoryError()
    assert ran_out(hidden)
    assert ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    round_about = ValueError("a")
    round_about.__context__ = round_about
    assert not ran_out(round_about)
    assert not ran_out(AssetError(Reason.CORRUPT, "plainly so"))


def test_a_limit_below_nothing_is_refused() -> None:
    """With the key at fault."""
    table = {
        "name": "n",
        "source": {"kind": "x"},
        "tokenizer": {"kind": "y"},
        "store": {"uri": "s"},
        "limits": {"asset_memory_bytes": -1},
    }
    with pytest.raises(JobError, match=r"limits.*asset_memory_bytes must be positive"):
        parse_job(table)
