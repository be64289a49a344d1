"""Golden cases: what the official class of a tokenizer gives for weights made from names.

A case is a JSON file: the official keys with shapes, the gains of rule fill-v1, the input, and the
ids or samples of the latents and reconstructions. A tokenizer outside this project can be held to
a case of its own with the same helpers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenmill.tokenizers.filling import picture, weight

__all__ = ["case_weights", "check_samples", "input_of", "load_case", "picture", "weight"]


def load_case(path: Path) -> dict[str, Any]:
    """Return a golden case."""
    case: dict[str, Any] = json.loads(path.read_text())
    return case


def case_weights(case: Mapping[str, Any], *more: Iterable[Any]) -> dict[str, Tensor]:
    """Return a checkpoint of the case's official keys and of ``more`` key lists.

    Entries that are no floats are zeros.
    """
    filled = {}
    for key, shape, dtype in [*case["keys"], *(entry for keys in more for entry in keys)]:
        kind = getattr(torch, dtype)
        if kind.is_floating_point:
            values = weight(key, tuple(shape), gain=case["gain"])
            filled[key] = torch.from_numpy(values).to(kind)
        else:
            filled[key] = torch.zeros(shape, dtype=kind)
    return filled


def input_of(case: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return the case's input ``float32[B, 3, H, W]``."""
    given = case["input"]
    x = picture(given["name"], tuple(given["shape"]), low=given["low"], high=given["high"])
    return x[None] if x.ndim == 3 else x


def check_samples(
    actual: npt.NDArray[np.floating[Any]], expected: Mapping[str, Any], *, relative: float = 1e-4
) -> None:
    """Compare an array with recorded samples, within ``relative`` of the recorded deviation.

    Raises:
        ValueError: shape, samples, mean or standard deviation differ; says by how much.
    """
    if list(actual.shape) != expected["shape"]:
        raise ValueError(f"shape must be {expected['shape']}, got {list(actual.shape)}")
    if "samples" in expected:
        places, values = zip(*expected["samples"], strict=True)
    else:
        places, values = expected["flat_indices"], expected["values"]
    error = float(np.abs(actual.reshape(-1)[list(places)] - np.asarray(values)).max())
    spread = float(expected["std"])
    drift = max(abs(float(actual.mean()) - expected["mean"]), abs(float(actual.std()) - spread))
    # A recorded deviation may be of the sample (N - 1) or of the population (N).
    slack = spread / actual.size
    if not (error <= relative * spread and drift <= relative * spread + slack):
        raise ValueError(
            f"largest difference {error:.3g}, of mean or deviation {drift:.3g}; "
            f"allowed {relative * spread:.3g}"
        )
