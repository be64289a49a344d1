"""Deltalake and Lance doing what `benchmarks.versions` measures: open, commit, diff, take down.

Each gets a table of as many files, whose entries are made up like ours. Deletions by key read data,
so they are measured on a real table of the files that our takedown reads.

    python -m benchmarks.version_peers delta|lance STEP FOLDER [--shards 1000000]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.versions import NEW_SHARDS, REAL_EVERY, SAMPLES, key, unit_of

SCHEMA = pa.schema([pa.field("asset_key", pa.string()), pa.field("ids", pa.int32())])
Step = Callable[[Path, int], None]


def real_rows(shards: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the shards that our takedown reads, a batch a shard."""
    for shard in range(0, shards, REAL_EVERY):
        keys = [key(asset) for asset in range(shard * SAMPLES, (shard + 1) * SAMPLES)]
        columns = {"asset_key": keys, "ids": list(range(SAMPLES))}
        yield pa.record_batch(columns, schema=SCHEMA)


def wanted_keys(shards: int) -> str:
    """Return the predicate that names one asset of each real shard."""
    keys = (key(shard * SAMPLES + shard % SAMPLES) for shard in range(0, shards, REAL_EVERY))
    return "asset_key IN ({})".format(", ".join(f"'{name}'" for name in keys))


class Delta:
    """Delta Lake by way of `deltalake`."""

    @staticmethod
    def _adds(shards: range) -> list[Any]:
        from deltalake.transaction import AddAction

        def stats(shard: int) -> str:
            low, high = key(shard * SAMPLES), key((shard + 1) * SAMPLES - 1)
            bounds = {"minValues": {"asset_key": low}, "maxValues": {"asset_key": high}}
            return json.dumps({"numRecords": SAMPLES, **bounds})

        return [
            AddAction(f"{unit_of(shard)[0]}.parquet", 2000, {}, 0, True, stats(shard))
            for shard in shards
        ]

    @classmethod
    def make(cls, folder: Path, shards: int) -> None:
        """Write the table of made-up files with a checkpoint, and the real one."""
        from deltalake import DeltaTable, Schema, write_deltalake
        from deltalake.transaction import create_table_with_add_actions

        schema = Schema.from_arrow(SCHEMA)
        table = str(folder / "delta")
        create_table_with_add_actions(table, schema, cls._adds(range(shards)), mode="error")
        DeltaTable(table).create_checkpoint()
        reader = pa.RecordBatchReader.from_batches(SCHEMA, real_rows(shards))
        write_deltalake(str(folder / "delta-real"), reader, target_file_size=1)

    @staticmethod
    def open(folder: Path, shards: int) -> None:
        """Open the table and read how many rows each file has."""
        from deltalake import DeltaTable

        actions = pa.table(DeltaTable(str(folder / "delta")).get_add_actions(flatten=True))
        if actions.num_rows < shards:
            raise RuntimeError("files are missing")

    @classmethod
    def commit(cls, folder: Path, shards: int) -> None:
        """Append a hundred files."""
        from deltalake import DeltaTable, Schema

        table = DeltaTable(str(folder / "delta"))
        first = shards + table.version() * NEW_SHARDS
        adds = cls._adds(range(first, first + NEW_SHARDS))
        table.create_write_transaction(adds, "append", Schema.from_arrow(SCHEMA))

    @staticmethod
    def diff(folder: Path, _shards: int) -> None:
        """Compare the files of the two newest versions; there is no operation for it."""
        from deltalake import DeltaTable

        newest = DeltaTable(str(folder / "delta"))
        older = DeltaTable(str(folder / "delta"), version=newest.version() - 1)
        if set(newest.file_uris()) == set(older.file_uris()):
            raise RuntimeError("no file is new")

    @staticmethod
    def takedown(folder: Path, shards: int) -> None:
        """Delete ten thousand keys, which rewrites their files."""
        from deltalake import DeltaTable

        DeltaTable(str(folder / "delta-real")).delete(wanted_keys(shards))


class Lance:
    """Lance by way of `pylance`."""

    @staticmethod
    def _fragments(shards: range) -> list[Any]:
        from lance.fragment import DataFile, FragmentMetadata

        return [
            FragmentMetadata(
                0, [DataFile(f"{unit_of(shard)[0]}.lance", [0, 1], [0, 1], 2, 0, 2000)], SAMPLES
            )
            for shard in shards
        ]

    @classmethod
    def make(cls, folder: Path, shards: int) -> None:
        """Write the dataset of made-up files, and the real one."""
        import lance

        operation = lance.LanceOperation.Overwrite(SCHEMA, cls._fragments(range(shards)))
        lance.LanceDataset.commit(str(folder / "lance"), operation)
        reader = pa.RecordBatchReader.from_batches(SCHEMA, real_rows(shards))
        lance.write_dataset(reader, str(folder / "lance-real"), max_rows_per_file=SAMPLES)

    @staticmethod
    def open(folder: Path, shards: int) -> None:
        """Open the dataset and read how many rows it has."""
        import lance

        if lance.dataset(str(folder / "lance")).count_rows() < shards * SAMPLES:
            raise RuntimeError("files are missing")

    @classmethod
    def commit(cls, folder: Path, shards: int) -> None:
        """Append a hundred files."""
        import lance

        uri = str(folder / "lance")
        operation = lance.LanceOperation.Append(cls._fragments(range(shards, shards + NEW_SHARDS)))
        lance.LanceDataset.commit(uri, operation, read_version=lance.dataset(uri).version)

    @staticmethod
    def diff(folder: Path, _shards: int) -> None:
        """Compare the fragments of the two newest versions; there is no operation for it."""
        import lance

        newest = lance.dataset(str(folder / "lance"))
        older = newest.checkout_version(newest.version - 1)
        ids = [{f.fragment_id for f in version.get_fragments()} for version in (newest, older)]
        if ids[0] == ids[1]:
            raise RuntimeError("no fragment is new")

    @staticmethod
    def takedown(folder: Path, shards: int) -> None:
        """Delete ten thousand keys, which writes deletion files."""
        import lance

        lance.dataset(str(folder / "lance-real")).delete(wanted_keys(shards))


PEERS: dict[str, Any] = {"delta": Delta, "lance": Lance}
STEPS = ("make", "open", "commit", "diff", "takedown")


def measure(peer: str, step: str, folder: Path, shards: int) -> dict[str, float]:
    """Do one step in this process; returns its seconds and the peak memory."""
    act: Step = getattr(PEERS[peer], step)
    import_module({"delta": "deltalake", "lance": "lance"}[peer])  # as ours is before its clock
    start = time.perf_counter()
    act(folder, shards)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak}


def main() -> None:
    """Measure one step and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1_000_000)
    args = parser.parse_args()
    print(json.dumps(measure(args.peer, args.step, args.folder, args.shards)))


if __name__ == "__main__":
    main()
