"""Codebooks that follow from a rule, so that no store needs to keep them: FSQ, LFQ and BSQ.

FSQ: Mentzer et al., arXiv:2309.15505. LFQ: MAGVIT-v2, arXiv:2310.05737. BSQ: arXiv:2406.07548.
"""

from __future__ import annotations

import numpy as np

from tokenmill.feed.shaping.bits import ids_to_bits, signs
from tokenmill.feed.shaping.common import Array, Floats, Ids, positive


def fsq_digits(ids: Array, levels: tuple[int, ...]) -> Ids:
    """Return each dimension's level int64[..., len(levels)]; the first dimension runs fastest."""
    positive("levels", levels)
    basis = np.cumprod((1, *levels[:-1]), dtype=np.int64)
    return np.asarray(ids.astype(np.int64)[..., None] // basis % np.array(levels))


def fsq_codes(ids: Array, levels: tuple[int, ...]) -> Floats:
    """Return codes ``float32[..., len(levels)]`` in [-1, 1]: ``(digit - L // 2) / (L // 2)``."""
    half = np.array([level // 2 for level in levels], np.float32)
    return np.asarray((fsq_digits(ids, levels) - half) / np.maximum(half, 1), np.float32)


def fsq_codebook(levels: tuple[int, ...]) -> Floats:
    """Return the codes of all ids: float32[product of levels, len(levels)]."""
    return fsq_codes(np.arange(int(np.prod(levels))), levels)


def lfq_codebook(width: int, *, unit_norm: bool = False) -> Floats:
    """Return the codes of all ids of ``width`` bits, +-1 each: float32[2**width, width]."""
    return signs(ids_to_bits(np.arange(1 << width), width), unit_norm=unit_norm)
