"""A keyed permutation of ``range(n)`` that needs no table: any entry costs the same.

An alternating Feistel network over ``Z_a x Z_b`` with ``a * b`` just above ``n`` (Luby and Rackoff
1988; the modular form for domains that are no power of two is from Black and Rogaway, "Ciphers
with Arbitrary Finite Domains", 2002). Values that fall in ``[n, a * b)`` are enciphered again
until they leave it (cycle walking); that are almost none. An affine map
(``i * k + c mod n``) would be faster and is not a shuffle: neighbours stay at a fixed distance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.unsignedinteger[Any]]

#: Three rounds on each half; four in all are enough against a distinguisher, two are margin.
ROUNDS = 6
#: Factors that are tried for a domain that exceeds ``n`` by little.
CANDIDATES = 64
#: Values enciphered at once: enough to spread the cost of a numpy call over, few enough that the
#: arrays of a round stay in a core's cache.
PIECE = 1 << 14


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    """A word size and its mixer: odd multipliers whose products avalanche into the upper half."""

    word: type[np.unsignedinteger[Any]]
    half_bits: int
    multipliers: tuple[int, int]


#: Multipliers of lowbias32 (C. Wellons, "hash-prospector") and of splitmix64 (Steele et al. 2014).
_NARROW = _Arithmetic(np.uint32, 16, (0x7FEB352D, 0x846CA68B))
_WIDE = _Arithmetic(np.uint64, 32, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class _Network:
    """Sizes of the halves, keys of the rounds, and what the mixer multiplies and shifts by.

    All are words of the arithmetic, as arrays of no dimension: ufuncs take those the fastest.
    """

    a: Words
    b: Words
    keys: tuple[Words, ...]
    arithmetic: _Arithmetic
    low: Words
    high: Words
    fold: Words
    half: Words

    @property
    def size(self) -> int:
        return int(self.a) * int(self.b)


_Cipher = Callable[[Words, _Network], Words]


def derive_key(*parts: int | str) -> int:
    """Return a 64-bit key for ``parts``; keys of different parts are unrelated."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(indices: npt.ArrayLike, n: int, key: int) -> Indices:
    """Return where the permutation of ``range(n)`` under ``key`` sends each of ``indices``.

    Raises:
        ValueError: an index is outside ``[0, n)``.
    """
    return _walk(_checked(indices, n), _network(n, key), n, _encipher)


def unpermute(images: npt.ArrayLike, n: int, key: int) -> Indices:
    """Return the indices that `permute` sends to ``images``.

    Raises:
        ValueError: an image is outside ``[0, n)``.
    """
    return _walk(_checked(images, n), _network(n, key), n, _decipher)


def _checked(indices: npt.ArrayLike, n: int) -> Indices:
    array = np.asarray(indices, np.int64)
    if array.size and (int(array.min()) < 0 or int(array.max()) >= n):
        raise ValueError(f"indices must be in [0, {n}), got {array.min()} to {array.max()}")
    return array


def _walk(indices: Indices, net: _Network, n: int, cipher: _Cipher) -> Indices:
    out = np.empty(indices.shape, np.int64)
    flat, source = out.reshape(-1), indices.reshape(-1)
    for start in range(0, flat.size, PIECE):
        piece = slice(start, start + PIECE)
        flat[piece] = cipher(source[piece].astype(net.arithmetic.word), net)
    if net.size > n:
        outside = np.flatnonzero(flat >= n)
        while outside.size:
            flat[outside] = cipher(flat[outside].astype(net.arithmetic.word), net)
            outside = outside[flat[outside] >= n]
    return out


@lru_cache(maxsize=1024)
def _network(n: int, key: int) -> _Network:
    if not 0 < n <= 2**62:
        raise ValueError(f"n must be in [1, 2**62], got {n}")
    a = _side(n)
    b = -(-n // a)
    arithmetic = _NARROW if max(a, b) <= 2**_NARROW.half_bits else _WIDE
    bits, words = arithmetic.half_bits, partial(np.array, dtype=arithmetic.word)
    keys = tuple(words(derive_key("round", key, i) % 2 ** (2 * bits)) for i in range(ROUNDS))
    low, high = map(words, arithmetic.multipliers)
    return _Network(words(a), words(b), keys, arithmetic, low, high, words(bits - 1), words(bits))


def _side(n: int) -> int:
    """Return the first factor of a domain near ``n``: of some near the root, the tightest fit.

    A walk over a few values costs as many numpy calls as the cipher of all the others.
    """
    root = math.isqrt(n - 1) + 1
    # Never far from the root: a lopsided network mixes one half only.
    tried = range(root - min(CANDIDATES, root // 4), root + 1)
    return min(tried, key=lambda a: a * -(-n // a) - n)


def _encipher(values: Words, net: _Network) -> Words:
    left, right = _split(values, net)
    spare = values, np.empty_like(values)
    for i in range(0, ROUNDS, 2):
        _add(left, _mix(right, net, i, spare), net.a, spare[1])
        _add(right, _mix(left, net, i + 1, spare), net.b, spare[1])
    return _join(left, right, net)


def _decipher(values: Words, net: _Network) -> Words:
    left, right = _split(values, net)
    spare = values, np.empty_like(values)
    for i in range(ROUNDS - 2, -1, -2):
        _subtract(right, _mix(left, net, i + 1, spare), net.b, spare[1])
        _subtract(left, _mix(right, net, i, spare), net.a, spare[1])
    return _join(left, right, net)


def _split(values: Words, net: _Network) -> tuple[Words, Words]:
    left: Words = values // net.b
    right: Words = left * net.b
    np.subtract(values, right, out=right)
    return left, right


def _join(left: Words, right: Words, net: _Network) -> Words:
    """Return ``left * b + right``, which a word holds: ``a * b`` is at most a word's range."""
    left *= net.b
    left += right
    return left


def _mix(half: Words, net: _Network, i: int, spare: tuple[Words, Words]) -> Words:
    """Round function: a keyed hash of ``half``, scaled to ``[0, a)`` or ``[0, b)``."""
    x, shifted = spare
    np.add(half, net.keys[i], out=x)
    x *= net.low
    np.right_shift(x, net.fold, out=shifted)
    x ^= shifted
    x *= net.high
    x >>= net.half
    x *= net.b if i % 2 else net.a
    x >>= net.half
    return x


def _add(half: Words, term: Words, size: Words, spare: Words) -> None:
    half += term
    np.subtract(half, size, out=spare)
    _wrap(half, spare)


def _subtract(half: Words, term: Words, size: Words, spare: Words) -> None:
    half -= term
    np.add(half, size, out=spare)
    _wrap(half, spare)


def _wrap(half: Words, other: Words) -> None:
    """Keep the one of the two that lies in range: the other is huge, for unsigned words wrap."""
    np.minimum(half, other, out=half)
