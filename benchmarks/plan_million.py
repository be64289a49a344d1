"""List, diff and plan a million files as a run does; print seconds and peak memory.

    python benchmarks/plan_million.py /dev/shm/million [--files 1000000]

The folder is filled with empty files on the first run and kept for the next.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.run import open_run
from tokenmill_pipelines.stages import list_stage, plan_stage
from tokenmill_schemas.job import parse_job

PER_FOLDER = 1000


def fill(folder: Path, files: int) -> None:
    """Make ``files`` empty pictures in folders of a thousand."""
    for start in range(0, files, PER_FOLDER):
        place = folder / f"{start // PER_FOLDER:05d}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(start, min(start + PER_FOLDER, files)):
            (place / f"{number:08d}.jpg").touch()


def run(folder: Path, files: int) -> dict[str, Any]:
    """Measure once, in this process: assets, units, seconds of both stages, peak memory."""
    if not folder.exists():
        fill(folder, files)
    with tempfile.TemporaryDirectory() as store:
        job = parse_job(
            {
                "name": "plan-million",
                "source": {"kind": "files", "urls": [str(folder)]},
                "tokenizer": {"kind": "patch_vq"},
                "store": {"uri": store},
            }
        )
        with open_run(job, SilentObserver()) as state:
            start = time.perf_counter()
            list_stage(state)
            listed = time.perf_counter()
            plan_stage(state)
            planned = time.perf_counter()
            assert state.listing is not None
            return {
                "assets": state.listing.assets,
                "units": len(state.planned.units),
                "list_s": listed - start,
                "plan_s": planned - listed,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    args = parser.parse_args()
    result = run(args.folder, args.files)
    print(
        f"{result['assets']} assets in {result['units']} units: listed in {result['list_s']:.1f} s,"
        f" planned in {result['plan_s']:.1f} s, peak {result['peak_mb']:.0f} MB"
    )


if __name__ == "__main__":
    main()
