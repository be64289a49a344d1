"""The contact sheet: a view, what came back of it, and the difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.views.base import Pixels, ViewKind
from tokenmill_pipelines.judge.verdict import Shown
from tokenmill_pipelines.report.drawing import contact_sheet, draw
from tokenmill_pipelines.report.record import Reconstruction

#: How much differences of pixels are amplified.
ERROR_GAIN = 4


@dataclass(frozen=True, slots=True)
class Pictures:
    """One view as pictures ``uint8[H, W, 3]``; ``error`` is None where kinds have no difference."""

    original: Pixels
    decoded: Pixels
    error: Pixels | None


def pictures(kind: ViewKind, shown: Shown) -> Pictures:
    """Return a view's pictures."""
    item = shown.item
    made = Reconstruction(item.key, item.data, shown.decoded, kind=kind, up=item.up)
    original, decoded = draw(made)
    return Pictures(original, decoded, _error(made))


def _error(made: Reconstruction) -> Pixels | None:
    if made.kind in ("image", "clip"):
        apart = np.abs(made.original.astype(np.int16) - made.decoded.astype(np.int16))
        louder = np.minimum(ERROR_GAIN * apart, 255).astype(np.uint8)
        return louder if made.kind == "image" else contact_sheet(louder)
    if made.kind == "voxels":
        from tokenmill_pipelines.report.render import render

        apart = np.logical_xor(made.original, made.decoded)
        return render("voxels", apart, up=made.up, like=made.original)
    return None
