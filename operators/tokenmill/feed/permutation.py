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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

#: Three rounds on each half; four in all are enough against a distinguisher, two are margin.
ROUNDS = 6
#: Factors that are tried for a domain that exceeds ``n`` by little.
CANDIDATES = 64


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
    a: int
    b: int
    keys: tuple[int, ...]
    arithmetic: _Arithmetic


def derive_key(*parts: int | str) -> int:
    """Return a 64-bit key for ``parts``; keys of different parts are unrelated."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(indices: npt.ArrayLike, n: int, key: int) -> Indices:
    """Return where the permutation of ``range(n)`` under ``key`` sends each of ``indices``.

    Raises:
        ValueError: an index is outside ``[0, n)``.
    """
    return _walk(_checked(indices, n), n, key, forward=True)


def unpermute(images: npt.ArrayLike, n: int, key: int) -> Indices:
    """Return the indices that `permute` sends to ``images``.

    Raises:
        ValueError: an image is outside ``[0, n)``.
    """
    return _walk(_checked(images, n), n, key, forward=False)


def _checked(indices: npt.ArrayLike, n: int) -> Indices:
    array = np.asarray(indices, np.int64)
    if array.size and (int(array.min()) < 0 or int(array.max()) >= n):
        raise ValueError(f"indices must be in [0, {n}), got {array.min()} to {array.max()}")
    return array


def _walk(indices: Indices, n: int, key: int, *, forward: bool) -> Indices:
    network = _network(n, key)
    cipher = _encipher if forward else _decipher
    out = cipher(indices, network)
    if network.a * network.b > n:
        outside = np.flatnonzero(out >= n)
        while outside.size:
            out[outside] = cipher(out[outside], network)
            outside = outside[out[outside] >= n]
    return out


@lru_cache(maxsize=64)
def _network(n: int, key: int) -> _Network:
    if not 0 < n <= 2**62:
        raise ValueError(f"n must be in [1, 2**62], got {n}")
    a = _side(n)
    b = -(-n // a)
    arithmetic = _NARROW if max(a, b) <= 2**_NARROW.half_bits else _WIDE
    top = 2 ** (2 * arithmetic.half_bits)
    keys = tuple(derive_key("round", key, i) % top for i in range(ROUNDS))
    return _Network(a, b, keys, arithmetic)


def _side(n: int) -> int:
    """Return the first factor of a domain near ``n``: of some near the root, the tightest fit.

    A walk over a few values costs as many numpy calls as the cipher of all the others.
    """
    root = math.isqrt(n - 1) + 1
    # Never far from the root: a lopsided network mixes one half only.
    tried = range(root - min(CANDIDATES, root // 4), root + 1)
    return min(tried, key=lambda a: a * -(-n // a) - n)


def _encipher(indices: Indices, net: _Network) -> Indices:
    left, right = _split(indices, net)
    for i in range(0, ROUNDS, 2):
        _add(left, _mix(right, net, i), net.a, net)
        _add(right, _mix(left, net, i + 1), net.b, net)
    return _join(left, right, net)


def _decipher(indices: Indices, net: _Network) -> Indices:
    left, right = _split(indices, net)
    for i in range(ROUNDS - 2, -1, -2):
        _subtract(right, _mix(left, net, i + 1), net.b, net)
        _subtract(left, _mix(right, net, i), net.a, net)
    return _join(left, right, net)


def _split(indices: Indices, net: _Network) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    word = net.arithmetic.word
    values = indices.astype(word)
    left = values // word(net.b)
    right = values - left * word(net.b)
    return left, right


def _join(left: npt.NDArray[Any], right: npt.NDArray[Any], net: _Network) -> Indices:
    joined: Indices = left.astype(np.int64) * net.b + right.astype(np.int64)
    return joined


def _mix(half: npt.NDArray[Any], net: _Network, i: int) -> npt.NDArray[Any]:
    """Round function: a keyed hash of ``half``, scaled to ``[0, a)`` or ``[0, b)``."""
    arithmetic = net.arithmetic
    word, shift = arithmetic.word, arithmetic.word(arithmetic.half_bits)
    x: npt.NDArray[Any] = half + word(net.keys[i])
    x *= word(arithmetic.multipliers[0])
    x ^= x >> word(arithmetic.half_bits - 1)
    x *= word(arithmetic.multipliers[1])
    x >>= shift
    x *= word(net.b if i % 2 else net.a)
    x >>= shift
    return x


def _add(half: npt.NDArray[Any], term: npt.NDArray[Any], size: int, net: _Network) -> None:
    half += term
    _wrap(half, half - net.arithmetic.word(size))


def _subtract(half: npt.NDArray[Any], term: npt.NDArray[Any], size: int, net: _Network) -> None:
    half -= term
    _wrap(half, half + net.arithmetic.word(size))


def _wrap(half: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
    """Keep the one of the two that lies in range: the other is huge, for unsigned words wrap."""
    np.minimum(half, other, out=half)
