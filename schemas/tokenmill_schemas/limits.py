"""The section ``limits`` of a job: what an asset, a batch and a run may cost, and must be worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Samples of a shard that are decoded again where a limit needs it and the job gives no number.
CHECKED = 4
#: What the PSNR of a sample is held to be where its view comes back unchanged, or next to that.
MOST_PSNR_DB = 100.0

_POSITIVE_LIMITS = (
    *("max_asset_bytes", "max_video_bytes", "max_pixels", "max_faces", "max_points"),
    *("view_bytes", "asset_deadline_s", "batch_bytes"),
)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What one asset, one batch and one run may cost.

    ``max_asset_bytes`` holds for what is read whole (pictures, shapes), ``max_video_bytes`` for
    what is read as it plays; ``max_pixels`` of one picture or frame. ``asset_deadline_s`` counts
    from the last byte that an asset's decoder read. ``view_bytes`` is the most that one view may
    take in memory where the tokenizer cannot take it in parts. ``asset_memory_bytes`` is by how
    much decoding and viewing one asset may make its actor grow before it is given up, 0 sets no
    limit; it counts private memory that is asked for, and the kernel refuses what is beyond (on
    Linux).

    The last four are checks before a commit, which a breach stops. ``check_samples`` of each shard
    are decoded and compared with their views; 0 means four where a limit needs it, else none.
    The mean of a shard must reach ``min_psnr_db`` (pictures and clips) or ``min_iou`` (volumes).
    ``max_entropy_drift``, in bits an id, is by how much the mean entropy of samples may differ from
    that of the version before. Each of these three is no limit where it is 0.
    """

    max_asset_bytes: int = 512 * 2**20
    max_video_bytes: int = 64 * 2**30
    max_pixels: int = 100_000_000
    max_faces: int = 20_000_000
    max_points: int = 50_000_000
    view_bytes: int = 2**30
    asset_memory_bytes: int = 8 * 2**30
    asset_deadline_s: float = 60.0
    batch_size: int = 0
    batch_bytes: int = 256 * 2**20
    max_quarantined_fraction: float = 1.0
    check_samples: int = 0
    min_psnr_db: float = 0.0
    min_iou: float = 0.0
    max_entropy_drift: float = 0.0

    def __post_init__(self) -> None:
        for name in _POSITIVE_LIMITS:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.asset_memory_bytes < 0:
            raise ValueError("asset_memory_bytes must be positive, or 0 for no limit")
        if self.batch_size < 0:
            raise ValueError("batch_size must be positive, or 0 for the tokenizer's own")
        if not 0 <= self.max_quarantined_fraction <= 1:
            raise ValueError("max_quarantined_fraction must be from 0 to 1")
        if self.check_samples < 0:
            raise ValueError("check_samples must be positive, or 0 for what the limits need")
        if not (math.isfinite(self.min_psnr_db) and 0 <= self.min_psnr_db <= MOST_PSNR_DB):
            raise ValueError(f"min_psnr_db must be from 0 (no limit) to {MOST_PSNR_DB:g}")
        if not 0 <= self.min_iou <= 1:
            raise ValueError("min_iou must be from 0 (no limit) to 1")
        if not (math.isfinite(self.max_entropy_drift) and self.max_entropy_drift >= 0):
            raise ValueError("max_entropy_drift must be positive, or 0 for no limit")

    @property
    def checked_samples(self) -> int:
        """Samples of each shard that are to be decoded again."""
        return self.check_samples or (CHECKED if self.min_psnr_db or self.min_iou else 0)
