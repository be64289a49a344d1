"""Fit the codebook of `tokenmill.tokenizers.patch_vq` and write its weights.

    tokenmill samples fetch lomiri-wallpapers; tokenmill samples fetch openclipart
    python -m tokenmill_pipelines.fit.codebooks.patch_vq --photos DIR --drawings DIR \
        --out FILE.safetensors

Codes are found by Lloyd's algorithm (S. P. Lloyd, "Least squares quantization in PCM", 1982) on
integer features with integer centroids, so that the assignments that are fitted are the ones that
are used. The decoder is the ridge regression of pixels on the codes of a patch and its neighbours.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tokenmill.tokenizers.patch_vq_codebook import (
    BASIS_BITS,
    PATCH,
    SYNTHESIS_BITS,
    VALUES,
    Codebook,
    Floats,
    IntArray,
    nearest_codes,
    project,
    score_table,
    to_patches,
    with_neighbours,
)
from tokenmill_pipelines.fit.codebooks.pictures import (
    Corpora,
    Pixels,
    centre_crops,
    drawings,
    photo_crops,
    photos,
)

log = logging.getLogger(__name__)

#: Luma and colour differences of ITU-R BT.601, as JPEG uses them. Colour differences weigh less
#: because eyes see them less; the luma error that is saved is worth more.
CHROMA_WEIGHT = 0.7
YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736 * CHROMA_WEIGHT, -0.331264 * CHROMA_WEIGHT, 0.5 * CHROMA_WEIGHT],
        [0.5 * CHROMA_WEIGHT, -0.418688 * CHROMA_WEIGHT, -0.081312 * CHROMA_WEIGHT],
    ]
)
#: Energies are a patch's sum of squared features without the means, so 64 times a variance.
FLAT_ENERGY = 200.0
SMOOTH_ENERGY = 3000.0
LUMA, CHROMA = 24, 8
#: The first features are the means of the three planes.
MEANS = 3
#: Some drawings are white all over and come back without an error.
PSNR_CAP_DB = 60.0
#: Crops whose context the decoder's regression sees (each has 1,024 patches).
DECODER_CROPS = 240


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fitted, and how long."""

    codes: int = 4096
    neighbour_features: int = 12
    patches: int = 500_000
    drawing_share: float = 0.35
    iterations: int = 20
    seed: int = 0


def main() -> None:
    """Fit, write the weights and print the scores on held-out pictures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in (("codes", 4096), ("patches", 500_000), ("iterations", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(
        codes=args.codes, patches=args.patches, iterations=args.iterations, seed=args.seed
    )
    corpora = Corpora(args.photos, args.drawings)
    book = fit(corpora, settings)
    tensors = {"basis": book.basis, "codes": book.codes, "synthesis": book.synthesis}
    save_file(tensors, args.out, metadata={"fit": json.dumps(_settings_json(settings))})
    log.info(json.dumps(scores(book, corpora), indent=2))


def _settings_json(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Settings.__slots__}


def fit(corpora: Corpora, settings: Settings) -> Codebook:
    """Return the codebook fitted on the corpora's training pictures."""
    rng = np.random.default_rng(settings.seed)
    camera = photo_crops(photos(corpora.photos, held_out=False), 96, rng)
    names = drawings(corpora.drawings, held_out=False)
    chosen = np.sort(rng.choice(len(names), min(2000, len(names)), replace=False))
    drawn = centre_crops([names[i] for i in chosen])
    basis = dct_basis(LUMA, CHROMA)
    rows = training_rows(features_of(camera, basis), features_of(drawn, basis), settings, rng)
    codes = lloyd(rows, settings.codes, settings.iterations, rng)
    context = np.concatenate([_spread(camera), _spread(drawn)])
    return Codebook(basis, codes, fit_decoder(context, basis, codes, settings.neighbour_features))


def _spread(crops: Pixels) -> Pixels:
    return crops[:: max(1, len(crops) * 2 // DECODER_CROPS)]


def dct_basis(luma: int, chroma: int) -> IntArray:
    """Return ``int16[luma + 2 chroma, 192]``: the lowest DCT frequencies of the three planes.

    Lowest first, so that the first three rows are the planes' means.
    """
    angle = np.pi * (2 * np.arange(PATCH) + 1) / (2 * PATCH)
    dct = np.cos(np.arange(PATCH)[:, None] * angle) * np.sqrt(2 / PATCH)
    dct[0] /= np.sqrt(2)
    grid = sorted((u * u + v * v, u, v) for u in range(PATCH) for v in range(PATCH))
    entries = [
        (square, plane, u, v)
        for plane, count in enumerate((luma, chroma, chroma))
        for square, u, v in grid[:count]
    ]
    rows = [
        np.einsum("i,j,c->ijc", dct[u], dct[v], YCBCR[plane]).reshape(VALUES)
        for _, plane, u, v in sorted(entries)
    ]
    basis: IntArray = np.rint(np.stack(rows) * 2**BASIS_BITS).astype(np.int16)
    return basis


def features_of(crops: Pixels, basis: IntArray) -> IntArray:
    """Return ``int16[N, 32, 32, D]``, in pieces of bounded memory."""
    parts = [crops[start : start + 32] for start in range(0, len(crops), 32)]
    return np.concatenate([project(to_patches(p), basis).astype(np.int16) for p in parts])


def training_rows(
    camera: IntArray, drawn: IntArray, settings: Settings, rng: np.random.Generator
) -> Floats:
    """Return ``float32[patches, D]``: patches of photos and of drawings."""
    drawn_count = int(settings.patches * settings.drawing_share)
    picks = (
        draw(camera, settings.patches - drawn_count, rng, smooth_first),
        draw(drawn, drawn_count, rng, _flat_seldom),
    )
    return np.concatenate(picks).astype(np.float32)


def draw(
    features: IntArray, count: int, rng: np.random.Generator, weigh: Callable[[Floats], Floats]
) -> IntArray:
    """Return ``count`` rows of features, drawn by the weights of their energy."""
    rows = features.reshape(-1, features.shape[-1])
    weights = weigh(np.square(rows[:, MEANS:].astype(np.float32)).sum(1)).astype(np.float64)
    picked = rng.choice(len(rows), min(count, len(rows)), replace=False, p=weights / weights.sum())
    return rows[picked]


def smooth_first(energy: Floats) -> Floats:
    """Texture masks errors and smooth areas show them, so smooth patches weigh more."""
    weights = 1 / np.sqrt(1 + energy / SMOOTH_ENERGY)
    return np.asarray(weights, np.float32)


def _flat_seldom(energy: Floats) -> Floats:
    """Most of a drawing is of one colour, often white: a fiftieth of that is plenty."""
    return np.where(energy > FLAT_ENERGY, np.float32(1), np.float32(0.02))


def lloyd(rows: Floats, count: int, iterations: int, rng: np.random.Generator) -> IntArray:
    """Return ``int16[count, D]`` centroids; empty ones restart at rows that are served badly."""
    codes = rows[rng.choice(len(rows), count, replace=False)].astype(np.int16)
    for step in range(iterations):
        ids = nearest_codes(rows, score_table(codes))
        errors = np.square(rows - codes[ids]).sum(1, dtype=np.float64)
        sizes = np.bincount(ids, minlength=count)
        sums = np.stack([np.bincount(ids, column, count) for column in rows.T], axis=1)
        means = np.floor(sums / np.maximum(sizes, 1)[:, None] + 0.5)
        empty = np.flatnonzero(sizes == 0)
        if len(empty) and errors.any():
            means[empty] = rows[rng.choice(len(rows), len(empty), p=errors / errors.sum())]
        codes = means.astype(np.int16)
        log.info("step %d: mean squared error %.1f, %d empty", step, errors.mean(), len(empty))
    return codes


def fit_decoder(crops: Pixels, basis: IntArray, codes: IntArray, neighbours: int) -> IntArray:
    """Return ``int16[D + 8 neighbours, 192]``, a ridge regression of pixels on codes.

    A patch's means are taken as they are and neighbours count by their difference from the patch,
    so that areas of one code come back flat, without a grid.
    """
    means = 8.0 * np.linalg.inv(YCBCR).T / PATCH**2
    flat = np.tile(means, (1, PATCH * PATCH))
    width = len(basis) + 8 * neighbours
    gram, cross = np.zeros((width, width)), np.zeros((width, VALUES))
    for patches, known in _context(crops, basis, codes, neighbours):
        rest = patches - known[:, :MEANS] @ flat
        known = known[:, MEANS:]
        gram[MEANS:, MEANS:] += known.T @ known
        cross[MEANS:] += known.T @ rest
    gram[np.diag_indices(width)] += len(crops) * (crops.shape[1] // PATCH) ** 2
    weights = np.linalg.solve(gram, cross)
    weights[:MEANS] = flat
    for start in range(len(basis), width, max(1, neighbours)):
        weights[:neighbours] -= weights[start : start + neighbours]
    synthesis: IntArray = np.rint(weights * 2**SYNTHESIS_BITS).astype(np.int16)
    return synthesis


def _context(
    crops: Pixels, basis: IntArray, codes: IntArray, neighbours: int
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Yield pixels ``[N, 192]`` and what the decoder knows: own code, neighbours' differences."""
    table, depth = score_table(codes), len(basis)
    for start in range(0, len(crops), 16):
        patches = to_patches(crops[start : start + 16])
        features = project(patches, basis)
        ids = nearest_codes(features.reshape(-1, depth), table).reshape(features.shape[:-1])
        known = with_neighbours(codes[ids], neighbours).astype(np.float64)
        known = known.reshape(-1, known.shape[-1])
        known[:, depth:] -= np.tile(known[:, :neighbours], 8)
        yield patches.reshape(-1, VALUES).astype(np.float64), known


def scores(book: Codebook, corpora: Corpora) -> dict[str, Any]:
    """Return PSNR and code use on held-out photographs and drawings (256-pixel centre crops)."""
    groups = {
        "photos": centre_crops(photos(corpora.photos, held_out=True)),
        "drawings": centre_crops(drawings(corpora.drawings, held_out=True)),
    }
    return {name: _score(book, crops) for name, crops in groups.items()}


def _score(book: Codebook, crops: Pixels) -> dict[str, Any]:
    ids = np.concatenate([book.assign(to_patches(crops[i : i + 1])) for i in range(len(crops))])
    pairs = zip(ids, crops, strict=True)
    values = [min(PSNR_CAP_DB, psnr(book.synthesize(one[None])[0], crop)) for one, crop in pairs]
    shares = np.bincount(ids.ravel()) / ids.size
    shares = shares[shares > 0]
    return {
        "pictures": len(crops),
        "psnr_db_mean": round(float(np.mean(values)), 2),
        "psnr_db_median": round(float(np.median(values)), 2),
        "codes_used": len(shares),
        "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 2),
    }


def psnr(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two pictures in dB, over all three channels."""
    error = np.square(one.astype(np.float64) - other).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


if __name__ == "__main__":
    main()
