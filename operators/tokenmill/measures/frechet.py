"""Frechet distance of two sets of features, each taken for a Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def frechet_distance(one: Array, other: Array) -> float:
    """Return the squared Frechet distance of Gaussians fitted to ``[N, D]`` and ``[M, D]``.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau, 1982), the form that is
    called FID where features are those of Inception. Both covariances are symmetric, so the trace
    of the root is that of ``(C1^(1/2) C2 C1^(1/2))^(1/2)``, which needs symmetric roots alone.

    Raises:
        ValueError: a set has fewer than two rows, or their widths differ.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"features are [N, D] and [M, D], got {one.shape} and {other.shape}")
    if min(len(one), len(other)) < 2:
        raise ValueError(f"covariances need two rows, got {len(one)} and {len(other)}")
    (one_mean, first), (other_mean, second) = _fitted(one), _fitted(other)
    means = one_mean - other_mean
    root = _root(first)
    values = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.clip(values, 0, None)).sum()
    distance = means @ means + np.trace(first) + np.trace(second) - 2 * shared
    return max(0.0, float(distance))


def _fitted(features: Array) -> tuple[Array, Array]:
    """Return the mean ``[D]`` and the unbiased covariance ``[D, D]``."""
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    return mean, (values - mean).T @ (values - mean) / (len(values) - 1)


def _root(matrix: Array) -> Array:
    """Return the symmetric root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
