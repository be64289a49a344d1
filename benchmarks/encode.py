"""Encode: pictures a second of the shipped tokenizers' networks, beside LlamaGen's VQ-16.

One process a core, as a job has one actor a core, each with one thread and batches of 16 pictures
of 256 pixels that lie in memory: `preprocess` and `encode`, and `decode` of the ids. All processes
of a tokenizer run at once and their rates are added; tokenizers take turns, round by round.
LlamaGen is the whole published network (72 M parameters). All weights are random: speed does not
depend on them.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.common import BATCH, Measure, Section, answer, child, task_given

#: Pictures a second on two cores that ``mill_image`` should reach.
BAR = 60.0
ROUNDS, BATCHES = 3, 6
SIDE = 256
TOKENIZERS: dict[str, dict[str, Any]] = {
    "mill_image f8": {"kind": "mill_image", "variant": "f8", "checkpoint": "random:0"},
    "mill_image f16": {"kind": "mill_image", "variant": "f16", "checkpoint": "random:0"},
    "mill_prefix": {"kind": "mill_prefix", "checkpoint": "random:0"},
    "llamagen VQ-16": {"kind": "llamagen", "variant": "VQ-16", "checkpoint": "random:0"},
}


def run(*, rounds: int = ROUNDS, batches: int = BATCHES) -> list[Section]:
    """Measure all tokenizers, interleaved."""
    cores = len(os.sched_getaffinity(0))
    encoded: dict[str, list[float]] = {name: [] for name in TOKENIZERS}
    decoded: dict[str, list[float]] = {name: [] for name in TOKENIZERS}
    for _ in range(rounds):
        for name, options in TOKENIZERS.items():
            task = {"options": options, "batches": batches}
            with ThreadPoolExecutor(cores) as pool:
                found = list(pool.map(lambda t: child("encode", t), [task] * cores))
            encoded[name].append(sum(one["encode"] for one in found))
            decoded[name].append(sum(one["decode"] for one in found))
    measures = [
        Measure(f"{name}: {what}", "pictures/s", tuple(rates[name]), _bar(name, what))
        for what, rates in (("encode", encoded), ("decode", decoded))
        for name in TOKENIZERS
    ]
    title = f"Encode: pictures of {SIDE} pixels on {cores} cores"
    return [Section(title, (__doc__ or "").strip(), tuple(measures))]


def _bar(name: str, what: str) -> float | None:
    return BAR if what == "encode" and name.startswith("mill_image") else None


def rates(options: dict[str, Any], batches: int) -> dict[str, float]:
    """Return pictures a second of one process, after a batch that warms it up."""
    import numpy as np
    import torch

    from tokenmill.tokenizers import open_tokenizer

    torch.set_num_threads(1)
    encoder = open_tokenizer(**options).load()
    views = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    tokens = encoder.encode(encoder.preprocess(views))
    encoder.decode(tokens)
    start = time.perf_counter()
    for _ in range(batches):
        encoder.encode(encoder.preprocess(views))
    middle = time.perf_counter()
    for _ in range(batches):
        encoder.decode(tokens)
    count = batches * BATCH
    return {
        "encode": count / (middle - start),
        "decode": count / (time.perf_counter() - middle),
    }


if __name__ == "__main__":
    given = task_given()
    answer(rates(given["options"], given["batches"]))
