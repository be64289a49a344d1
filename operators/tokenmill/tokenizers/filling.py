"""Weights and pictures made from names alone, so that they need no file and no torch version.

Rule ``fill-v1`` gives every entry of a state dict float32 standard normals ``x`` from a PCG64
stream seeded with the first 8 bytes (little endian) of sha256(name), then

* two or more axes: ``x / sqrt(fan-in)``, fan-in = product of all axes but the first;
* one axis or none: ``1 + 0.1 x`` where the key ends in ``weight``, ``scale``, ``gamma`` or ``.g``,
  ``1 + 0.1 |x|`` where it ends in ``running_var``, ``0.1 x`` otherwise.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_GAINS = ("weight", "scale", "gamma", ".g")


def normals(name: str, shape: tuple[int, ...]) -> Floats:
    """Return float32 standard normals of ``shape`` that depend on ``name`` alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


def weight(
    key: str,
    shape: tuple[int, ...],
    *,
    gain: Mapping[str, float] | None = None,
    seed: str = "",
) -> Floats:
    """Return the entry that rule fill-v1 gives to ``key``.

    Args:
        key: the entry's name in the state dict.
        shape: its shape.
        gain: factors for the keys that a pattern (``re.search``) finds.
        seed: goes before the key in the name of the stream; "" is the rule itself.
    """
    x = normals(seed + key, shape)
    if len(shape) >= 2:
        x = x / np.float32(math.sqrt(math.prod(shape[1:])))
    elif key.endswith(_GAINS):
        x = 1 + np.float32(0.1) * x
    elif key.endswith("running_var"):
        x = 1 + np.float32(0.1) * np.abs(x)
    else:
        x = np.float32(0.1) * x
    for pattern, factor in (gain or {}).items():
        if re.search(pattern, key):
            x = x * np.float32(factor)
    return np.asarray(x, dtype=np.float32)


def picture(name: str, shape: tuple[int, ...], *, low: float = -1.0, high: float = 1.0) -> Floats:
    """Return a smooth test picture of ``shape`` (``[..., H, W]``) with values in [low, high].

    Coarse noise of one value per 8 x 8 pixels is enlarged by repetition, and finer noise added.
    """
    *lead, height, width = shape
    coarse = (*lead, max(2, -(-height // 8)), max(2, -(-width // 8)))
    big = np.repeat(np.repeat(normals(f"{name}:coarse", coarse), 8, axis=-2), 8, axis=-1)
    big = big[..., :height, :width]
    x = np.tanh(0.7 * big + 0.15 * normals(f"{name}:fine", shape))
    return np.asarray(low + (high - low) * (x + 1) / 2, dtype=np.float32)
