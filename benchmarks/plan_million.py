"""List and plan a million files; print seconds and peak memory.

    python benchmarks/plan_million.py /dev/shm/million [--files 1000000]

The folder is filled with empty files on the first run and kept for the next.
"""

import argparse
import resource
import time
from pathlib import Path

from tokenmill.sources.files import FilesSource
from tokenmill_schemas.plan import split, unit_id

PER_FOLDER = 1000


def fill(folder: Path, files: int) -> None:
    """Make ``files`` empty pictures in folders of a thousand."""
    for start in range(0, files, PER_FOLDER):
        place = folder / f"{start // PER_FOLDER:05d}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(start, min(start + PER_FOLDER, files)):
            (place / f"{number:08d}.jpg").touch()


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    args = parser.parse_args()
    if not args.folder.exists():
        fill(args.folder, args.files)
    start = time.perf_counter()
    units = assets = 0
    for table in split(FilesSource((str(args.folder),)).list(), 1024):
        unit_id("fingerprint", "layout", table)
        units, assets = units + 1, assets + table.num_rows
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{assets} assets in {units} units: {seconds:.1f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
