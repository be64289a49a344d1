"""What one actor needs of its machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """Needs of one encoder: ``gpus`` 1.0 means a device of its own where there is one.

    ``batch_size`` is a good first batch, which limits and memory may lower.
    """

    gpus: float = 1.0
    cpus: float = 1.0
    memory_bytes: int = 2 * 2**30
    batch_size: int = 32
