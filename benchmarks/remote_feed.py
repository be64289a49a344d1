"""A feed from an S3 server, beside reading the very same ranges and doing nothing with them.

    python -m benchmarks.remote_feed [--shards N] [--rows N] [--tokens N] [--rounds N]

The server is SeaweedFS on loopback, which shares the processors with its client. What is measured
is one epoch of the block shuffle with a cold cache: footers, ranges, checks, the cache's files and
shuffled batches. The limit is the fastest that reads the same ranges at the same concurrency and
throws them away: plain HTTP on kept connections, Arrow's own S3 client, or s3fs. They read them in
the order in which the feed did, which is what the server's own cache makes a difference of.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tokenmill.feed import Feed, ShardCache
from tokenmill.testing.feed import build_store
from tokenmill.testing.s3server import S3Server, s3_server
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_infra.storage.direct import DirectRanges
from tokenmill_infra.storage.options import CONNECTIONS
from tokenmill_infra.storage.remote import path_of
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

Range = tuple[str, int, int]
Read = Callable[[str, int, int], object]

SHARDS, ROWS, TOKENS, ROUNDS, BATCH = 4, 65_536, 512, 3, 256


@dataclass(frozen=True, slots=True)
class RemoteFeed:
    """What was measured, medians of all rounds; rates in MB/s of the ranges' bytes.

    ``share`` is that of the feed in the fastest of ``raw``. ``first_batch_bytes`` were read of
    shards of ``shard_bytes`` each until the first batch was there, after ``first_batch_s``.
    """

    raw: dict[str, float]
    cold: float
    warm: float
    share: float
    open_s: float
    first_batch_s: float
    first_batch_bytes: int
    shard_bytes: int
    ranges: int


def run(
    *, shards: int = SHARDS, rows: int = ROWS, tokens: int = TOKENS, rounds: int = ROUNDS
) -> RemoteFeed:
    """Measure limits and feed in turns, so that a busy machine slows all of them."""
    with tempfile.TemporaryDirectory(prefix="bench-remote-") as name, s3_server() as server:
        folder = Path(name)
        with _environment(server.environment):
            uri = server.root()
            _upload(folder / "store", uri, [rows] * shards, tokens)
            return _measured(uri, folder, server, rounds)


def _measured(uri: str, folder: Path, server: S3Server, rounds: int) -> RemoteFeed:
    readers = _readers(uri, server)
    ranges = _requests(uri, folder / "recorded")
    raw: dict[str, list[float]] = {name: [] for name in readers}
    cold, warm, first = [], [], []
    for turn in range(rounds):
        for name, read in readers.items():
            raw[name].append(_rate(ranges, lambda read=read: _read_all(read, ranges)))  # type: ignore[misc]
        cache = ShardCache(folder / f"cache-{turn}")
        cold.append(_rate(ranges, lambda cache=cache: _read_epoch(uri, cache)))  # type: ignore[misc]
        warm.append(_rate(ranges, lambda cache=cache: _read_epoch(uri, cache)))  # type: ignore[misc]
        first.append(_first_batch(uri, folder / f"first-{turn}"))
    medians = {name: statistics.median(rates) for name, rates in raw.items()}
    shares = [rate / max(raw[name][turn] for name in raw) for turn, rate in enumerate(cold)]
    opened, waited, read_bytes = (statistics.median(column) for column in zip(*first, strict=True))
    sizes = [e.size_bytes for e in open_storage(uri).list("data")]
    return RemoteFeed(
        raw=medians,
        cold=statistics.median(cold),
        warm=statistics.median(warm),
        share=statistics.median(shares),
        open_s=opened,
        first_batch_s=waited,
        first_batch_bytes=int(read_bytes),
        shard_bytes=max(sizes),
        ranges=len(ranges),
    )


def _rate(ranges: Sequence[Range], work: Callable[[], None]) -> float:
    """Return MB/s of the ranges' bytes."""
    begin = time.perf_counter()
    work()
    return sum(stop - start for _, start, stop in ranges) / (time.perf_counter() - begin) / 1e6


def _read_all(read: Read, ranges: Sequence[Range]) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(lambda some: read(*some) and None, ranges):
            pass


def _read_epoch(uri: str, cache: ShardCache) -> None:
    for _ in Feed(uri, batch_size=BATCH, epochs=1, cache=cache):
        pass


def _first_batch(uri: str, folder: Path) -> tuple[float, float, int]:
    """Return the seconds to open a feed, those to its first batch, and the bytes then fetched."""
    begin = time.perf_counter()
    feed = Feed(uri, batch_size=BATCH, cache=ShardCache(folder), threads=0)
    opened = time.perf_counter()
    next(iter(feed))
    done = time.perf_counter()
    return opened - begin, done - opened, sum(p.stat().st_size for p in folder.iterdir())


def _readers(uri: str, server: S3Server) -> dict[str, Read]:
    """Return who may set the limit: functions that read one range."""
    import pyarrow.fs

    storage, root = open_storage(uri), path_of(uri)
    arrow = pyarrow.fs.S3FileSystem(
        access_key=server.key,
        secret_key=server.secret,
        endpoint_override=server.endpoint_url,
        scheme="http",
        region="us-east-1",
    )
    files = {e.path: arrow.open_input_file(f"{root}/{e.path}") for e in storage.list("data")}
    return {
        "plain HTTP": DirectRanges(storage).read,
        "pyarrow.fs": lambda path, start, stop: files[path].read_at(stop - start, start),
        "s3fs": storage.read,
    }


def _requests(uri: str, folder: Path) -> list[Range]:
    """Return the ranges that a feed asks for in an epoch, in its order."""
    asked: list[Range] = []

    class Recorded(DirectRanges):
        def read(self, path: str, start: int, stop: int) -> bytes | bytearray:
            asked.append((path, start, stop))
            return super().read(path, start, stop)

    with mock.patch("tokenmill.feed.shards.remote.DirectRanges", Recorded):
        _read_epoch(uri, ShardCache(folder))
    return asked


def _upload(folder: Path, uri: str, rows: list[int], tokens: int) -> None:
    stream = Stream("image", "index", (Axis("n", tokens),), (16_384,))
    build_store(folder, rows, layout=ShardLayout(TokenSpec((stream,))))
    storage: Storage = open_storage(uri)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.create(str(path.relative_to(folder)), path.read_bytes())


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args()


if __name__ == "__main__":
    print(json.dumps(asdict(run(**vars(_options()))), indent=2))
