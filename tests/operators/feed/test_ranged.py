"""Feeds of stores on object stores: the batches that a disk would give, by range reads."""

import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.operators.feed.cached_blocks import copied, same

import tokenmill.feed.shards.pieces as pieces
import tokenmill.feed.shards.remote as remote_shards
from tokenmill.feed import Feed, ShardCache
from tokenmill.feed.columns import Projection
from tokenmill.feed.rows.manifest import TableManifest
from tokenmill.feed.shards.files import ShardFiles
from tokenmill.feed.shards.mapped import MappedShards
from tokenmill.feed.shards.ranged import RangedShards
from tokenmill.store import Store
from tokenmill.testing.feed import assert_restores_at_every_step, build_store
from tokenmill.testing.ranges import RangeStorage
from tokenmill.testing.s3proxy import Rule, s3_proxy
from tokenmill.testing.s3server import S3Server
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

GRID = (Axis("h", 4), Axis("w", 5))
STREAMS = (
    Stream("image", "index", GRID, (1000,)),
    Stream("narrow", "index", (Axis("n", 3),), (100,)),
    Stream("binary", "bits", (Axis("n", 9),), width_bits=18),
    Stream("latent", "float", GRID, channels=4, dtype="float16"),
    Stream("varied", "index", (Axis("h"), Axis("w")), (300,)),
    Stream("after", "index", GRID, (500,)),
)
EXTRAS = pa.schema([pa.field("caption", pa.string()), pa.field("label", pa.int64())])
COLUMNS = ("caption", "sample_id", "label")
PLAIN = ShardLayout(TokenSpec((Stream("image", "index", (Axis("n", 256),), (1000,)),)))


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shards are cut like large ones: pieces of four kilobytes, requests of three."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4096)
    monkeypatch.setattr(pieces, "SCHEMA_BYTES", 512)
    monkeypatch.setattr(remote_shards, "WHOLE_BYTES", 0)
    monkeypatch.setattr(remote_shards, "REQUEST_BYTES", 3000)


def store_of(folder: Path, packing: Any = "raw", **options: Any) -> Store:
    """Return a local store of every kind of stream, in shards of several batches."""
    layout = ShardLayout(TokenSpec(STREAMS), packing, EXTRAS)
    config = ShardsConfig(packing=packing, batch_rows=16, **options)
    return build_store(folder, [170, 33, 5, 90], layout=layout, shards=config)


def readers_of(store: Store, remote: Storage, cache: ShardCache) -> tuple[Any, Any, Any]:
    """Return the manifest, and readers of its shards from the disk and from elsewhere."""
    names = ["path", "sha256", "bytes", "batch_rows", "samples"]
    table = store.segments(store.snapshot(), names).combine_chunks()
    manifest = TableManifest(table, table.column("samples").to_numpy())
    layout = store.layout(store.snapshot())
    projection = Projection.of(layout, None, ("sample_id",))
    local = MappedShards(ShardFiles(store.storage, manifest, cache), manifest.samples, projection)
    return manifest, local, RangedShards(ShardFiles(remote, manifest, cache), projection)


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize("packing", ["raw", "bits"])
@pytest.mark.parametrize("shuffle", ["block", "full", "none"])
def test_a_remote_feed_gives_what_a_local_one_gives(
    tmp_path: Path, packing: Any, shuffle: Any
) -> None:
    """Every kind of stream and column, cold and warm, each piece asked for once."""
    store = store_of(tmp_path / "store", packing)
    remote = RangeStorage.of(tmp_path / "store")
    cache = ShardCache(tmp_path / "cache")
    for _ in range(2):
        options: Any = {"batch_size": 36, "epochs": 2, "columns": COLUMNS, "shuffle": shuffle}
        got = Feed(Store(remote), cache=cache, **options)
        same(list(got), list(Feed(store, **options)))
        # What opening a feed reads is not the cache's.
        reads = Counter(r for r in remote.reads if r[0].endswith(".arrow"))
        opened = {store.segments(store.snapshot()).column("path")[0].as_py()}
        assert {n for r, n in reads.items() if r[0] not in opened} == {1}
    assert max(stop - start for path, start, stop in reads if path not in opened) <= 3000


@pytest.mark.usefixtures("many_pieces")
def test_it_restores_at_every_step(tmp_path: Path) -> None:
    """The law of feeds, with a cache that holds a few pieces."""
    store_of(tmp_path / "store")
    remote = Store(RangeStorage.of(tmp_path / "store"))
    cache = ShardCache(tmp_path / "cache", limit_bytes=30_000)

    def make() -> Feed:
        return Feed(remote, batch_size=9, columns=("sample_id", "label"), threads=1, cache=cache)

    assert_restores_at_every_step(make, steps=10)


@pytest.mark.parametrize("kind", ["arrow", "webdataset"])
def test_small_shards_and_tar_shards_are_fetched_whole(tmp_path: Path, kind: Any) -> None:
    """In one request each, which is checked by the shard's sha256."""
    store = store_of(tmp_path / "store", format=kind)
    remote = RangeStorage.of(tmp_path / "store")
    options: Any = {"batch_size": 36, "epochs": 1, "columns": COLUMNS}
    cache = ShardCache(tmp_path / "cache")
    feed = Feed(Store(remote), cache=cache, **options)
    opening = len(remote.reads)
    same(list(feed), list(Feed(store, **options)))
    assert sorted(path for path, _, _ in remote.reads[opening:]) == sorted(
        store.segments(store.snapshot()).column("path").to_pylist()
    )
    assert {path.suffix for path in cache.folder.iterdir()} == {".shard", ".lock"}


@pytest.mark.usefixtures("many_pieces")
def test_a_gather_fetches_all_its_pieces_at_once(tmp_path: Path) -> None:
    """First the footers, then the pieces: two waits, however many there are."""
    store = store_of(tmp_path / "store")
    remote = RangeStorage.of(tmp_path / "store", delay_s=0.02)
    _, local, far = readers_of(store, remote, ShardCache(tmp_path / "cache"))
    shards, rows = np.repeat([0, 1, 3], 30), np.tile(np.arange(30), 3)
    got, want = far.gather(shards, rows, share=90), local.gather(shards, rows, share=90)
    same([got.batch(0)], [want.batch(0)])
    assert remote.most_at_once >= 4


@pytest.mark.usefixtures("many_pieces")
def test_what_was_hinted_at_is_there_when_it_is_wanted(tmp_path: Path) -> None:
    """The hint returns at once, fetches what will be needed, and nothing is fetched twice."""
    store = store_of(tmp_path / "store")
    remote = RangeStorage.of(tmp_path / "store", delay_s=0.05)
    _, local, far = readers_of(store, remote, ShardCache(tmp_path / "cache"))
    shards, rows = np.array([0, 3, 0, 1]), np.array([5, 80, 160, 2])
    far.ahead(shards, rows)
    hinted = len(remote.reads)
    got = far.gather(shards, rows, share=4)
    same([got.batch(0)], [local.gather(shards, rows, share=4).batch(0)])
    assert hinted <= 3
    reads = len(remote.reads)
    assert max(Counter(remote.reads).values()) == 1
    far.gather(shards, rows, share=4)
    assert len(remote.reads) == reads


@pytest.mark.usefixtures("many_pieces")
def test_a_hint_that_fails_is_tried_again(tmp_path: Path) -> None:
    """What is wrong is said by the gather that needs it, and not before."""
    store = store_of(tmp_path / "store")
    remote = RangeStorage.of(tmp_path / "store")
    manifest, local, far = readers_of(store, remote, ShardCache(tmp_path / "cache"))
    held = remote.files.pop(manifest.path(0))
    one = np.array([0])
    far.ahead(one, one)
    with pytest.raises(CorruptShardError, match="is missing"):
        far.gather(one, one, share=1)
    remote.files[manifest.path(0)] = held
    same([far.gather(one, one, share=1).batch(0)], [local.gather(one, one, share=1).batch(0)])


@pytest.mark.usefixtures("many_pieces")
def test_memory_is_bounded_where_no_disk_helps(tmp_path: Path) -> None:
    """A gather of more than memory holds goes in rounds, and old pieces are let go."""
    store = store_of(tmp_path / "store")
    remote = RangeStorage.of(tmp_path / "store")
    cache = ShardCache(tmp_path / "cache", limit_bytes=10)
    manifest, local, _ = readers_of(store, remote, cache)
    projection = Projection.of(store.layout(store.snapshot()), None, COLUMNS)
    limit = 40_000
    far = RangedShards(ShardFiles(remote, manifest, cache), projection, memory_bytes=limit)
    local = MappedShards(ShardFiles(store.storage, manifest, cache), manifest.samples, projection)
    rng = np.random.default_rng(0)
    for _ in range(5):
        shards = rng.integers(0, 4, 200)
        rows = rng.integers(0, manifest.samples[shards])
        got, want = far.gather(shards, rows, share=50), local.gather(shards, rows, share=50)
        same([got.batch(i) for i in range(4)], [want.batch(i) for i in range(4)])
        assert far.held_bytes <= limit
    assert sum(manifest.bytes(i) for i in range(4)) > 2 * limit


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize("times", [1, 100])
def test_damage_on_the_way(tmp_path: Path, times: int) -> None:
    """Once: fetched again. Always: an error that names shard, record batch and sums."""
    store = store_of(tmp_path / "store")
    remote = RangeStorage.of(tmp_path / "store")
    manifest, local, far = readers_of(store, remote, ShardCache(tmp_path / "cache"))
    one = np.array([0])
    far.gather(one, one, share=1)  # opens the shard
    struck = 0

    def spoil(path: str, start: int, data: bytes) -> bytes:
        nonlocal struck
        struck += 1
        middle = len(data) // 2
        flipped = bytes([data[middle] ^ 1])
        return data[:middle] + flipped + data[middle + 1 :] if struck <= times else data

    remote.spoil = spoil
    last = np.array([160])
    if times == 1:
        got, want = far.gather(one, last, share=1), local.gather(one, last, share=1)
        same([got.batch(0)], [want.batch(0)])
        return
    text = rf"{manifest.path(0)}: record batch \d+: expected crc32 '\w{{8}}', found '\w{{8}}'"
    with pytest.raises(CorruptShardError, match=text):
        far.gather(one, last, share=1)


@pytest.mark.usefixtures("many_pieces")
def test_a_shard_that_is_not_what_was_committed(tmp_path: Path) -> None:
    """Cut off, of other rows, or another file: an error that names it, and no wrong sample."""
    store = store_of(tmp_path / "store")
    remote = RangeStorage.of(tmp_path / "store")
    manifest, _, _ = readers_of(store, remote, ShardCache(tmp_path / "cache"))
    right, other = remote.files[manifest.path(0)], remote.files[manifest.path(3)]
    one = np.array([0])
    for wrong in (right[:-10], right[:100], b"", other, bytes(len(right))):
        remote.files[manifest.path(0)] = wrong
        _, _, far = readers_of(store, remote, ShardCache(tmp_path / "cache"))
        with pytest.raises(CorruptShardError, match=manifest.path(0)):
            far.gather(one, one, share=1)


@pytest.mark.s3
def test_from_a_real_server(s3_root: str, s3: S3Server, tmp_path: Path) -> None:
    """The same batches, the first of them long before a shard has been fetched whole."""
    sizes = [20_000, 20_000]
    store = build_store(tmp_path / "store", sizes, layout=PLAIN)
    copied(tmp_path / "store", open_storage(s3_root))
    options: Any = {"batch_size": 8, "seed": 1}
    with s3_proxy(s3.endpoint_url) as proxy:
        storage = open_storage(s3_root, {**s3.options, "endpoint_url": proxy.endpoint_url})
        far = Feed(Store(storage), cache=ShardCache(tmp_path / "cache"), threads=0, **options)
        first = next(iter(far))
        fetched = sum(p.stat().st_size for p in (tmp_path / "cache").iterdir())
    near = Feed(store, **options)
    same([first], [next(iter(near))])
    shard = store.segments(store.snapshot()).column("bytes")[0].as_py()
    assert fetched < shard / 2
    far = Feed(s3_root, batch_size=256, epochs=1, cache=ShardCache(tmp_path / "cache"))
    same(list(far), list(Feed(store, batch_size=256, epochs=1)))


@pytest.mark.s3
@pytest.mark.parametrize("fault", ["slow_down", "internal_error", "lose_request", "cut_body"])
def test_a_server_with_faults(s3_root: str, s3: S3Server, tmp_path: Path, fault: Any) -> None:
    """Refused, lost and cut off answers are asked for again; the batches are the same."""
    store = build_store(tmp_path / "store", [6000], layout=PLAIN)
    copied(tmp_path / "store", open_storage(s3_root))
    rule = Rule(fault, method="GET", path=r"\.arrow", times=1, each=False, after=3)
    with s3_proxy(s3.endpoint_url, [rule, Rule(fault, "GET", r"\.arrow", 2, 7)]) as proxy:
        storage = open_storage(s3_root, {**s3.options, "endpoint_url": proxy.endpoint_url})
        far = Feed(Store(storage), batch_size=64, cache=ShardCache(tmp_path / "cache"), epochs=1)
        same(list(far), list(Feed(store, batch_size=64, epochs=1)))
        assert sum(proxy.hits) >= 2


def test_a_forked_child_goes_on(tmp_path: Path) -> None:
    """With threads, connections and locks of its own, and the parent with its."""
    store = build_store(tmp_path / "store", [6000], layout=PLAIN)
    remote = RangeStorage.of(tmp_path / "store")
    feed = Feed(Store(remote), batch_size=64, cache=ShardCache(tmp_path / "cache"))
    want = [batch["image"].sum() for batch in islice(Feed(store, batch_size=64), 8)]  # type: ignore[union-attr]
    batches = iter(feed)
    next(batches)
    child = os.fork()
    if not child:
        found = [batch["image"].sum() for batch in islice(batches, 7)]  # type: ignore[union-attr]
        os._exit(0 if found == want[1:] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [batch["image"].sum() for batch in islice(batches, 7)] == want[1:]  # type: ignore[union-attr]
