"""The order of MeshXL: faces and corners as they are stored, nine ids a face.

Chen et al., "MeshXL: Neural Coordinate Field for Generative 3D Foundation Models",
arXiv:2405.20853; the official ids are those of OpenMeshLab/MeshXL. A language model over ``bins``
coordinates adds begin, end and padding as the ids behind them, which are named but not stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenmill.tokenizers.mesh_orders.common import Ids, Ints, Order, Soup
from tokenmill_schemas.tokens import Axis, Stream

FACE_IDS = 9


def streams(bins: int) -> tuple[Stream, ...]:
    """Return ``mesh``: x, y, z of a face's first corner, then of its second and third."""
    special = (("bos", bins), ("eos", bins + 1), ("pad", bins + 2))
    axes = (Axis("n"),)
    return (Stream("mesh", "index", axes, (bins,), order="sequence", special_ids=special),)


def encode(soup: Soup, bins: int) -> dict[str, Ints]:
    """Return ``mesh``, ``int64[9 F]``; any soup has one."""
    del bins
    return {"mesh": soup.reshape(-1).astype(np.int64)}


def decode(tokens: Mapping[str, Ids], bins: int) -> Soup:
    """Return the very array that was encoded.

    Raises:
        ValueError: the sequence does not end with a face.
    """
    del bins
    ids = np.asarray(tokens["mesh"])
    if len(ids) % FACE_IDS:
        raise ValueError(f"a MeshXL sequence has {FACE_IDS} ids a face, this one {len(ids)} in all")
    return ids.reshape(-1, 3, 3).astype(np.int32)


ORDER = Order(streams, encode, decode)
