"""Fit a codebook of `tokenmill.tokenizers.patch_vq` for Fashion-MNIST, in seconds on one core.

    tokenmill samples fetch fashion-mnist
    python -m tokenmill_pipelines.fit.codebooks.fashion_mnist --out fashion_mnist.safetensors \
        --listing samples/fashion-mnist/listing.parquet

Pictures are enlarged to 56 pixels, so a patch is 4 x 4 of their own and a picture 7 x 7 ids of 512.
Only the training split is read.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

from tokenmill.tokenizers.patch_vq_codebook import Codebook, Floats, to_patches
from tokenmill_pipelines.fit.codebooks.patch_vq import (
    FLAT_ENERGY,
    dct_basis,
    draw,
    features_of,
    fit_decoder,
    lloyd,
    psnr,
)
from tokenmill_pipelines.fit.codebooks.pictures import Pixels

SIDE = 56
#: Grey pictures: 20 frequencies of luma; of the colours the means, which are always zero.
LUMA, CHROMA = 20, 1
NEIGHBOUR_FEATURES = 6
CODES = 512
PICTURES, DECODER_PICTURES, PATCHES = 12_000, 1_500, 200_000
ITERATIONS = 15
#: Most patches are the black around the clothes.
FLAT_WEIGHT = 0.05


def main() -> None:
    """Fit, write the weights and print the score on pictures of the test split as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listing", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    book = fit(pictures(args.listing, "train", PICTURES, rng), rng)
    tensors = {"basis": book.basis, "codes": book.codes, "synthesis": book.synthesis}
    save_file(tensors, args.out, metadata={"fit": json.dumps({"seed": args.seed})})
    held_out = pictures(args.listing, "test", 1000, rng)
    ids = book.assign(to_patches(held_out))
    score = np.mean([psnr(*pair) for pair in zip(held_out, book.synthesize(ids), strict=True)])
    print(json.dumps({"psnr_db_mean": round(float(score), 2), "codes_used": len(np.unique(ids))}))


def pictures(listing: Path, split: str, count: int, rng: np.random.Generator) -> Pixels:
    """Return ``uint8[count, 56, 56, 3]``: pictures of a split, as the view of the job has them."""
    table = pq.read_table(listing, columns=["image", "split"])
    images = table.filter(pc.equal(table["split"], split))["image"]
    chosen = np.sort(rng.choice(len(images), min(count, len(images)), replace=False))
    return np.stack([enlarged(data.as_py()) for data in images.take(chosen)])


def enlarged(data: bytes) -> Pixels:
    """Return the picture of a PNG as ``uint8[56, 56, 3]``."""
    with Image.open(io.BytesIO(data)) as image:
        large = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return np.asarray(large)


def fit(crops: Pixels, rng: np.random.Generator) -> Codebook:
    """Return the codebook fitted on pictures."""
    basis = dct_basis(LUMA, CHROMA)
    rows = draw(features_of(crops, basis), PATCHES, rng, _flat_seldom).astype(np.float32)
    codes = lloyd(rows, min(CODES, len(rows)), ITERATIONS, rng)
    context = crops[:DECODER_PICTURES]
    return Codebook(basis, codes, fit_decoder(context, basis, codes, NEIGHBOUR_FEATURES))


def _flat_seldom(energy: Floats) -> Floats:
    return np.where(energy > FLAT_ENERGY, np.float32(1), np.float32(FLAT_WEIGHT))


if __name__ == "__main__":
    main()
