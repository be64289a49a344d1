"""Nearest-code search that gives the official ids, in bounded memory.

Ids of near-ties depend on how a distance is computed, so the two forms in use are kept apart and
their order of operations is the official one. All of it is float32, also under autocast.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

#: ``expanded``: ``|z|^2 + |e|^2 - 2 z.e`` (taming-transformers, LlamaGen); ``addmm``: the same as
#: one fused product, ``addmm(|z|^2 + |e|^2, z, e^T, alpha=-2)`` (MaskGIT-VQGAN in PyTorch, VAR).
Distance = Literal["expanded", "addmm"]
Floats = npt.NDArray[np.float32]

#: Distances held at a time: 32 MiB on a CPU, near its cache; 256 MiB on a device.
_BUDGET_VALUES = {"cpu": 2**23}
_DEVICE_VALUES = 2**26


def nearest_code(
    z: Tensor, codebook: Tensor, *, distance: Distance = "expanded", l2_norm: bool = False
) -> Tensor:
    """Return the index of the code nearest to every vector, the first one of equals.

    Args:
        z: vectors ``[..., D]``.
        codebook: codes ``[K, D]``.
        distance: how the squared distance is computed.
        l2_norm: put vectors and codes on the unit sphere first.

    Returns:
        ``int64[...]``. Distances are held for some of the vectors at a time, never for all.
    """
    with torch.autocast(z.device.type, enabled=False):
        flat, codes = z.float().reshape(-1, z.shape[-1]), codebook.float()
        if l2_norm:
            flat, codes = F.normalize(flat, dim=-1), F.normalize(codes, dim=-1)
        code_norms = codes.square().sum(dim=1)
        budget = _BUDGET_VALUES.get(z.device.type, _DEVICE_VALUES)
        # Parts of equal size: a short last one could be summed by another kernel.
        count = -(-len(flat) * len(codes) // budget)
        parts = [
            _argmin(part, codes, code_norms, distance=distance)
            for part in torch.tensor_split(flat, max(1, min(count, len(flat))))
        ]
        return torch.cat(parts).reshape(z.shape[:-1])


def look_up(ids: Tensor, codebook: Tensor, *, l2_norm: bool = False) -> Tensor:
    """Return the codes of ``ids`` as float32 ``[..., D]``."""
    codes = F.embedding(ids, codebook.float())
    return F.normalize(codes, dim=-1) if l2_norm else codes


def code_vectors(codebook: Tensor, *, l2_norm: bool = False) -> Floats:
    """Return all codes ``float32[K, D]`` on the host, as `look_up` gives them.

    Norms are taken in float64, so that every machine and device gives the same bytes.
    """
    codes: Floats = codebook.detach().float().cpu().numpy()
    if not l2_norm:
        return codes.copy()
    wide = codes.astype(np.float64)
    norms = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return np.asarray(wide / np.maximum(norms, 1e-12), np.float32)


def _argmin(z: Tensor, codes: Tensor, code_norms: Tensor, *, distance: Distance) -> Tensor:
    sums = z.square().sum(dim=1, keepdim=True) + code_norms
    if distance == "addmm":
        return torch.addmm(sums, z, codes.t(), alpha=-2.0, out=sums).argmin(dim=1)
    # Twice a float is exact, so that subtracting in place rounds as the official expression does.
    return sums.sub_(z @ codes.t(), alpha=2.0).argmin(dim=1)
