"""Seeded chance that no numpy release changes: raw PCG64 words, turned into numbers here.

numpy promises the words of a bit generator for ever, its distributions only within a version.
Words are seeded by sha256 of (seed, asset key), so a view depends on nothing but the job's seed
and its own asset.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


class Draws:
    """Uniform numbers from raw PCG64 words, the same on every machine and numpy."""

    def __init__(self, seed: int, key: str) -> None:
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        self._words = np.random.PCG64(int.from_bytes(digest, "little"))

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high) from the upper 53 bits of one word."""
        return low + (high - low) * ((int(self._words.random_raw()) >> 11) * 2.0**-53)

    def below(self, stop: int) -> int:
        """Return an integer in [0, stop); its bias is below stop / 2**64."""
        return (int(self._words.random_raw()) * stop) >> 64

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Return ``float64[count]`` in [0, 1), each as `uniform` makes it of its own word."""
        words = np.asarray(self._words.random_raw(count), np.uint64)
        numbers: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64)
        return numbers * 2.0**-53

    def subset(self, count: int, stop: int) -> npt.NDArray[np.int64]:
        """Return ``int64[count]`` distinct integers in [0, stop), all orders equally likely.

        Fisher and Yates' shuffle of which only the touched entries are kept: it needs memory for
        ``count`` of them, and the first k stay the same when ``count`` grows.

        Raises:
            ValueError: there are fewer than ``count``.
        """
        if count > stop:
            raise ValueError(f"cannot draw {count} distinct integers below {stop}")
        moved: dict[int, int] = {}
        drawn = np.empty(count, np.int64)
        for place in range(count):
            other = place + self.below(stop - place)
            drawn[place] = moved.get(other, other)
            moved[other] = moved.get(place, place)
        return drawn
