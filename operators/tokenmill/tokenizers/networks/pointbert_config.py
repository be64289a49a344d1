"""Architecture of Point-BERT's discrete VAE, and how its groups of points are found; no torch.

Groups are found on the host in numpy, so that the centres, which are tokens too, do not depend on
a device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill.views.sampling import farthest_points

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: PointNet++'s sampling kernel passes over points with a squared norm up to this.
_MIN_SQUARE = np.float32(1e-3)
#: Groups of the normalisations of a DGCNN, which its widths must be multiples of.
_NORM_GROUPS = 4


@dataclass(frozen=True, slots=True)
class PointBertConfig:
    """Architecture, by the names of the official ``dvae.yaml``."""

    num_group: int = 64
    group_size: int = 32
    encoder_dims: int = 256
    num_tokens: int = 8192
    tokens_dims: int = 256
    decoder_dims: int = 256

    def __post_init__(self) -> None:
        widths = (self.encoder_dims, self.tokens_dims)
        if min(self.num_group, self.group_size, *widths) < 1 or self.num_group < _NORM_GROUPS:
            raise ValueError("sizes must be positive, and num_group at least 4")
        if self.group_size % 4:
            raise ValueError("group_size must be a multiple of 4: the decoder folds fours")
        if self.num_tokens % _NORM_GROUPS or self.decoder_dims % _NORM_GROUPS:
            raise ValueError("num_tokens and decoder_dims must be multiples of 4 (normalisation)")

    @property
    def least_points(self) -> int:
        """How many points a cloud needs."""
        return max(self.num_group, self.group_size)


def grouped(cloud: Floats, config: PointBertConfig) -> tuple[Floats, Floats]:
    """Return the neighbourhoods about their centres, and the centres, of one cloud.

    Centres are farthest points from the first one on; a group is the nearest points of a centre by
    float64 distance, the lower index first of equally near ones, in the cloud's order.

    Args:
        cloud: ``float32[N, 3]``, N at least ``config.least_points``.
        config: numbers of groups and of points in one.

    Returns:
        ``float32[G, n, 3]`` and ``float32[G, 3]``.
    """
    centers = cloud[_centers(cloud, config.num_group)]
    groups = cloud[nearest_points(cloud, centers, config.group_size)]
    return groups - centers[:, None], centers


def _centers(cloud: Floats, count: int) -> Ints:
    x, y, z = cloud.T
    eligible = x * x + y * y + z * z > _MIN_SQUARE
    # Where too few are far enough from the origin, the kernel takes the first point again.
    able = min(count, int(eligible[1:].sum()) + 1)
    found = np.zeros(count, np.int64)
    found[:able] = farthest_points(cloud, able, eligible=eligible)
    return found


def nearest_points(cloud: Floats, centers: Floats, count: int) -> Ints:
    """Return ``int64[G, count]``: which points of ``[N, 3]`` are nearest to ``[G, 3]``."""
    away = (centers[:, None].astype(np.float64) - cloud).transpose(2, 0, 1)
    distances = away[0] * away[0] + away[1] * away[1] + away[2] * away[2]
    limit = np.partition(distances, count - 1, axis=1)[:, count - 1 : count]
    nearer, level = distances < limit, distances == limit
    wanted = count - nearer.sum(axis=1, keepdims=True)
    chosen = nearer | (level & (np.cumsum(level, axis=1) <= wanted))
    return np.nonzero(chosen)[1].reshape(len(centers), count)
