"""Fit the codebook of tubes of `tokenmill.tokenizers.patch_vq` and write its weights.

    for name in iscc-samples lomiri-wallpapers openclipart; do tokenmill samples fetch $name; done
    python -m tokenmill_pipelines.fit.codebooks.patch_vq_video --photos DIR --drawings DIR \
        --film FILE.mp4 --out FILE.safetensors

As `tokenmill_pipelines.fit.codebooks.patch_vq`; the basis is made of those products of cosines over
time, rows and columns that have the most energy in the training clips.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tokenmill.tokenizers.patch_vq_codebook import (
    BASIS_BITS,
    FRAMES,
    PATCH,
    SYNTHESIS_BITS,
    TUBE_NEIGHBOURS,
    TUBE_VALUES,
    Codebook,
    Floats,
    IntArray,
    nearest_codes,
    project,
    score_table,
    to_tubes,
    with_neighbours,
)
from tokenmill_pipelines.fit.codebooks.clips import (
    LENGTH,
    SIDE,
    ClipCorpora,
    camera_pans,
    drawn_pans,
    film_clips,
)
from tokenmill_pipelines.fit.codebooks.patch_vq import (
    MEANS,
    PSNR_CAP_DB,
    YCBCR,
    draw,
    lloyd,
    psnr,
    smooth_first,
)
from tokenmill_pipelines.fit.codebooks.pictures import Corpora, Pixels

log = logging.getLogger(__name__)

#: A tube's mean has four times the weight of a patch's; half of that keeps sums exact in float32.
SCALE = 0.5
#: Clips whose context the decoder's regression sees (each has 768 tubes).
DECODER_CLIPS = 400


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """What is fitted, and how long."""

    codes: int = 4096
    luma: int = 28
    chroma: int = 6
    neighbour_features: int = 6
    tubes: int = 450_000
    pans: int = 70
    iterations: int = 15
    seed: int = 0


def main() -> None:
    """Fit, write the weights and print the scores on held-out clips as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("photos", "drawings", "film", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = VideoSettings()
    corpora = ClipCorpora(Corpora(args.photos, args.drawings), args.film)
    book = fit(corpora, settings)
    tensors = {"basis": book.basis, "codes": book.codes, "synthesis": book.synthesis}
    known = {name: getattr(settings, name) for name in VideoSettings.__slots__}
    save_file(tensors, args.out, metadata={"fit": json.dumps(known)})
    log.info(json.dumps(scores(book, corpora), indent=2))


def fit(corpora: ClipCorpora, settings: VideoSettings) -> Codebook:
    """Return the codebook fitted on the corpora's training clips."""
    rng = np.random.default_rng(settings.seed)
    kinds = (
        film_clips(corpora.film, held_out=False),
        camera_pans(corpora.pictures, settings.pans, rng, held_out=False),
        drawn_pans(corpora.pictures, rng, held_out=False),
    )
    log.info("clips: %s", [len(clips) for clips in kinds])
    basis = energy_basis(np.concatenate([clips[::6] for clips in kinds]), settings)
    rows = [
        draw(_features_of(clips, basis), int(settings.tubes * share), rng, smooth_first)
        for clips, share in zip(kinds, (0.4, 0.45, 0.15), strict=True)
    ]
    codes = lloyd(np.concatenate(rows).astype(np.float32), settings.codes, settings.iterations, rng)
    return Codebook(basis, codes, _fit_decoder(_spread(kinds), basis, codes, settings))


def _spread(kinds: tuple[Pixels, ...]) -> Pixels:
    count = DECODER_CLIPS // len(kinds)
    return np.concatenate([clips[:: max(1, len(clips) // count)] for clips in kinds])


def energy_basis(clips: Pixels, settings: VideoSettings) -> IntArray:
    """Return ``int16[luma + 2 chroma, 768]``: cosines over time, rows and columns.

    The means of the three planes come first, then the others by their energy in ``clips``.
    """
    cosines = _cosines()
    energy = np.zeros((3, FRAMES * PATCH * PATCH))
    for clip in clips:
        values = to_tubes(clip[None]).reshape(-1, FRAMES * PATCH * PATCH, 3) @ YCBCR.T
        planes = values.transpose(0, 2, 1).reshape(-1, FRAMES * PATCH * PATCH)
        energy += np.square(planes @ cosines.T).reshape(-1, *energy.shape).mean(0)
    energy[:, 0] = np.inf
    picked = [
        (plane, kind)
        for plane, count in enumerate((settings.luma, settings.chroma, settings.chroma))
        for kind in np.argsort(-energy[plane], kind="stable")[:count]
    ]
    picked.sort(key=lambda pair: (-energy[pair], pair))
    rows = [np.multiply.outer(cosines[k], YCBCR[plane]).reshape(TUBE_VALUES) for plane, k in picked]
    basis: IntArray = np.rint(np.stack(rows) * SCALE * 2**BASIS_BITS).astype(np.int16)
    return basis


def _cosines() -> npt.NDArray[np.float64]:
    """Return the orthonormal DCT of a tube's plane, ``float64[256, 256]``; row 0 is the mean."""
    time, side = _dct(FRAMES), _dct(PATCH)
    size = FRAMES * PATCH * PATCH
    products = np.einsum("at,bi,cj->abctij", time, side, side)
    return np.asarray(products.reshape(size, size), np.float64)


def _dct(size: int) -> npt.NDArray[np.float64]:
    angle = np.pi * (2 * np.arange(size) + 1) / (2 * size)
    rows: npt.NDArray[np.float64] = np.cos(np.arange(size)[:, None] * angle) * np.sqrt(2 / size)
    rows[0] /= np.sqrt(2)
    return rows


def _features_of(clips: Pixels, basis: IntArray) -> IntArray:
    parts = (clips[start : start + 16] for start in range(0, len(clips), 16))
    return np.concatenate([project(to_tubes(part), basis).astype(np.int16) for part in parts])


def _fit_decoder(
    clips: Pixels, basis: IntArray, codes: IntArray, settings: VideoSettings
) -> IntArray:
    """Return ``int16[D + 10 neighbours, 768]``, a ridge regression of pixels on codes.

    As `tokenmill_pipelines.fit.codebooks.patch_vq.fit_decoder`: means are taken as they are, and
    neighbours count by their difference from the tube.
    """
    near = settings.neighbour_features
    # A tube's mean is 16 times its plane's mean; a basis of SCALE gives half of that.
    flat = np.tile(np.linalg.inv(YCBCR).T / (16 * SCALE), (1, FRAMES * PATCH * PATCH))
    width = len(basis) + len(TUBE_NEIGHBOURS) * near
    gram, cross = np.zeros((width, width)), np.zeros((width, TUBE_VALUES))
    for tubes, known in _context(clips, basis, codes, near):
        rest = tubes - known[:, :MEANS] @ flat
        known = known[:, MEANS:]
        gram[MEANS:, MEANS:] += known.T @ known
        cross[MEANS:] += known.T @ rest
    gram[np.diag_indices(width)] += len(clips) * (LENGTH // FRAMES) * (SIDE // PATCH) ** 2
    weights = np.linalg.solve(gram, cross)
    weights[:MEANS] = flat
    for start in range(len(basis), width, max(1, near)):
        weights[:near] -= weights[start : start + near]
    synthesis: IntArray = np.rint(weights * 2**SYNTHESIS_BITS).astype(np.int16)
    return synthesis


def _context(
    clips: Pixels, basis: IntArray, codes: IntArray, near: int
) -> Iterator[tuple[Floats, npt.NDArray[np.float64]]]:
    """Yield tubes ``[N, 768]`` and what the decoder knows: own code, neighbours' differences."""
    table, depth = score_table(codes), len(basis)
    for start in range(0, len(clips), 8):
        tubes = to_tubes(clips[start : start + 8])
        features = project(tubes, basis)
        ids = nearest_codes(features.reshape(-1, depth), table).reshape(features.shape[:-1])
        known = with_neighbours(codes[ids], near).astype(np.float64)
        known = known.reshape(-1, known.shape[-1])
        known[:, depth:] -= np.tile(known[:, :near], len(TUBE_NEIGHBOURS))
        yield tubes.reshape(-1, TUBE_VALUES), known


def scores(book: Codebook, corpora: ClipCorpora) -> dict[str, Any]:
    """Return PSNR and code use on the film's end and on motion over held-out pictures."""
    rng = np.random.default_rng(1)
    groups = {
        "film": film_clips(corpora.film, held_out=True),
        "photos": camera_pans(corpora.pictures, 8, rng, held_out=True),
        "drawings": drawn_pans(corpora.pictures, rng, held_out=True),
    }
    return {name: score(book, clips) for name, clips in groups.items()}


def score(book: Codebook, clips: Pixels) -> dict[str, Any]:
    """Return PSNR, codes used and entropy of clips ``uint8[N, T, H, W, 3]``."""
    ids = np.concatenate([book.assign(to_tubes(clip[None])) for clip in clips])
    pairs = zip(ids, clips, strict=True)
    values = [min(PSNR_CAP_DB, psnr(book.synthesize(one[None])[0], clip)) for one, clip in pairs]
    shares = np.bincount(ids.ravel()) / ids.size
    shares = shares[shares > 0]
    return {
        "clips": len(clips),
        "psnr_db_mean": round(float(np.mean(values)), 2),
        "psnr_db_median": round(float(np.median(values)), 2),
        "codes_used": len(shares),
        "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 2),
    }


if __name__ == "__main__":
    main()
