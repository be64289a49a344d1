"""Fit the codebook of `tokenmill.tokenizers.voxel_vq` and write its weights.

    tokenmill samples fetch pybullet
    python -m tokenmill_pipelines.fit.codebooks.voxel_vq --objects DIR/objects \
        --out FILE.safetensors

Codes are found as k-modes does (Huang, "Extensions to the k-Means Algorithm for Clustering Large
Data Sets with Categorical Values", 1998): blocks go to the code of least Hamming distance, and a
cell of a code is what most of its blocks have there. Fitted on objects of the PyPI package
``pybullet`` (zlib licence), as surfaces and as solids, turned and mirrored. Held out: every tenth
object, and all of folders that have a licence of their own, so nothing of theirs enters the
weights.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from tokenmill.decoders.shape import ShapeDecoder
from tokenmill.tokenizers.voxel_vq import (
    BYTES,
    Codebook,
    Ints,
    Packed,
    Volumes,
    from_blocks,
    nearest_codes,
    score_table,
    to_blocks,
    unpack,
)
from tokenmill.views.voxels import Voxels
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError

log = logging.getLogger(__name__)

RESOLUTION = 64
HELD_OUT_EVERY = 10
#: Turns and mirrors of each object: of its surface, and of the solid that this closes off.
SURFACES, SOLIDS = 3, 1
Fill = Literal["surface", "solid"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fitted, and how long."""

    codes: int = 4096
    blocks: int = 400_000
    iterations: int = 15
    seed: int = 0


def main() -> None:
    """Fit, write the weights and print the scores on held-out objects as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    defaults = Settings()
    for name in ("codes", "blocks", "iterations", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    given = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    objects, out = given.pop("objects"), given.pop("out")
    book = fit(objects, Settings(**given))
    save_file({"codes": book.codes}, out)
    print(json.dumps(scores(book, objects), indent=2))


def fit(objects: Path, settings: Settings) -> Codebook:
    """Return a codebook fitted on the objects below a folder; the same for the same settings."""
    rng = np.random.default_rng(settings.seed)
    paths = files(objects, held_out=False)
    rows = np.concatenate(list(_blocks(paths, rng)))
    log.info("%d blocks of %d files", len(rows), len(paths))
    if len(rows) > settings.blocks:
        rows = rows[np.sort(rng.choice(len(rows), settings.blocks, replace=False))]
    rows, weights = distinct(rows)
    codes = k_modes((rows, weights), settings.codes - 2, settings.iterations, rng)
    return Codebook(in_order(completed(codes, rows, weights)))


def completed(codes: Packed, rows: Packed, weights: Ints) -> Packed:
    """Put rows that are badly off in the place of codes that are empty, full or there twice."""
    kept = partial(distinct(codes)[0])
    _, away = nearest_codes(rows, score_table(kept))
    worst = np.argsort(-away * weights, kind="stable")[: len(codes) - len(kept)]
    return np.concatenate([kept, rows[worst[away[worst] > 0]]])


def in_order(codes: Packed) -> Packed:
    """Return the empty block, codes from few occupied cells to many, and the full block."""
    occupied = unpack(codes).sum(axis=1, dtype=np.int64)
    ends = (np.zeros((1, BYTES), np.uint8), np.full((1, BYTES), 255, np.uint8))
    return np.concatenate([ends[0], codes[np.argsort(occupied, kind="stable")], ends[1]])


def partial(rows: Packed) -> Packed:
    """Return the rows of ``uint8[N, 64]`` that are neither empty nor full."""
    kept: Packed = rows[rows.any(axis=1) & (rows != 255).any(axis=1)]
    return kept


def files(objects: Path, *, held_out: bool) -> list[Path]:
    """Return the object files to fit on, or those that are held out; of equal files the first."""
    kept: list[Path] = []
    seen: set[bytes] = set()
    found = (p for p in sorted(objects.rglob("*")) if p.suffix.lower() in {".obj", ".stl"})
    for number, path in enumerate(found):
        digest = hashlib.sha256(path.read_bytes()).digest()
        out = number % HELD_OUT_EVERY == 0 or _own_licence(path, objects)
        if digest not in seen and out == held_out:
            kept.append(path)
        seen.add(digest)
    return kept


def _own_licence(path: Path, objects: Path) -> bool:
    folders = itertools.takewhile(lambda folder: folder != objects, path.parents)
    return any(file.stem.lower() == "license" for folder in folders for file in folder.iterdir())


def volumes(paths: Iterable[Path], fill: Fill) -> Iterator[Volumes]:
    """Yield ``bool[64, 64, 64]`` of every file that holds a shape."""
    decoder = ShapeDecoder()
    view = Voxels(RESOLUTION, up="as_is", fill=fill)
    for path in paths:
        try:
            with path.open("rb") as stream:
                shape = decoder.decode(AssetRef(path.name, str(path)), stream)
            yield from (found.data for found in view.views(shape, path.name))
        except AssetError as error:
            log.info("%s: %s", path, error)


def _blocks(paths: list[Path], rng: np.random.Generator) -> Iterator[Packed]:
    """Yield the blocks of each object that are neither empty nor full, in a few positions."""
    fills: tuple[tuple[Fill, int], ...] = (("surface", SURFACES), ("solid", SOLIDS))
    for fill, times in fills:
        for volume in volumes(paths, fill):
            turns = np.stack([turned(volume, rng) for _ in range(times)])
            yield partial(to_blocks(turns).reshape(-1, BYTES))


def turned(volume: Volumes, rng: np.random.Generator) -> Volumes:
    """Return a volume in one of the 48 positions that a cube has, mirrors included."""
    mirrors = tuple(axis for axis in range(3) if rng.integers(2))
    return np.flip(volume.transpose(rng.permutation(3)), mirrors)


def distinct(rows: Packed) -> tuple[Packed, Ints]:
    """Return the distinct rows of ``uint8[N, 64]``, in order of their bytes, and their counts."""
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, BYTES)))[:, 0]
    found, counts = np.unique(whole, return_counts=True)
    return found.view(np.uint8).reshape(-1, BYTES), counts.astype(np.int64)


def k_modes(
    data: tuple[Packed, Ints], count: int, iterations: int, rng: np.random.Generator
) -> Packed:
    """Return ``uint8[count, 64]``: codes for distinct rows and how often each occurs.

    Codes that nothing goes to become the rows that are worst off.
    """
    rows, weights = data
    start = rng.choice(len(rows), min(count, len(rows)), replace=False)
    codes = rows[np.sort(start)]
    for step in range(iterations):
        ids, away = nearest_codes(rows, score_table(codes))
        log.info("step %d: %.3f cells differ", step, np.average(away, weights=weights))
        codes, used = _modes(data, ids, codes)
        unused = np.flatnonzero(~used)
        codes[unused] = rows[np.argsort(-away * weights, kind="stable")[: len(unused)]]
    return codes


def _modes(data: tuple[Packed, Ints], ids: Ints, codes: Packed) -> tuple[Packed, Any]:
    """Return what most rows of each code have in each cell, and which codes have any row."""
    rows, weights = data
    order = np.argsort(ids, kind="stable")
    bounds = np.searchsorted(ids[order], np.arange(len(codes) + 1))
    codes, used = codes.copy(), np.diff(bounds) > 0
    for code in np.flatnonzero(used):
        members = order[bounds[code] : bounds[code + 1]]
        votes = weights[members] @ unpack(rows[members])
        codes[code] = np.packbits(2 * votes > weights[members].sum(), bitorder="little")
    return codes, used


def scores(book: Codebook, objects: Path) -> dict[str, Any]:
    """Return how well objects are reconstructed that were not fitted on, and those that were."""
    named = {
        f"{name} {fill}": score(book, volumes(files(objects, held_out=out), fill))
        for name, out in (("unseen", True), ("fitted", False))
        for fill in ("surface", "solid")
    }
    return {"codes": len(book.codes), **named}


def score(book: Codebook, given: Iterable[Volumes]) -> dict[str, Any]:
    """Return intersection over union, and what the ids are worth."""
    overlaps: list[float] = []
    counts = np.zeros(len(book.codes), np.int64)
    for volume in given:
        ids = book.assign(to_blocks(volume[None]))
        back = from_blocks(book.codes[ids])[0]
        overlaps.append(float((volume & back).sum() / (volume | back).sum()))
        counts += np.bincount(ids.ravel(), minlength=len(counts))
    shares = counts[counts > 0] / counts.sum()
    return {
        "objects": len(overlaps),
        "iou_mean": round(float(np.mean(overlaps)), 4),
        "iou_median": round(float(np.median(overlaps)), 4),
        "codes_used": len(shares),
        "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 2),
    }


if __name__ == "__main__":
    main()
