"""Indexes of tars: where samples and members begin, as two readers want to be told.

``X.tar.idx`` (Megatron-Energon, github.com/NVIDIA/Megatron-Energon): unsigned 64-bit little-endian
integers, one a sample, the position of the header of its first member, then the position behind the
last member, where the zero blocks begin.

``X.idx`` (NVIDIA DALI, the format of ``wds2idx``, version 1.2): a line ``v1.2 <samples>``, then a
line a sample with four words for every member: extension, position of its data, size, name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Bytes of a member's header.
HEADER = 512


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: its name, the position of its header, and the bytes of its data."""

    name: str
    position: int
    size: int

    @property
    def key(self) -> str:
        """The sample that it is of: its name up to the first dot."""
        return self.name.partition(".")[0]

    @property
    def extension(self) -> str:
        """What follows the first dot of its name."""
        return self.name.partition(".")[2]

    @property
    def data(self) -> int:
        """Position of its data."""
        return self.position + HEADER


def energon_index(samples: Sequence[Sequence[Member]], end: int) -> bytes:
    """Return the bytes of ``X.tar.idx``; ``end`` is the position behind the last member."""
    return np.array([*(s[0].position for s in samples), end], "<u8").tobytes()


def dali_index(samples: Sequence[Sequence[Member]]) -> bytes:
    """Return the bytes of ``X.idx``."""
    lines = [f"v1.2 {len(samples)}"]
    lines += (" ".join(f"{m.extension} {m.data} {m.size} {m.name}" for m in s) for s in samples)
    return "".join(f"{line}\n" for line in lines).encode()
