"""Views as pictures: frames of a clip side by side, shapes rendered."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tokenmill.views.base import Array
from tokenmill_pipelines.report.record import Pixels, Reconstruction

#: Longest side of one frame in a contact sheet, and the width of the line between frames.
FRAME_SIDE = 256
GAP = 4


def draw(made: Reconstruction) -> tuple[Pixels, Pixels]:
    """Return the original and the reconstruction as pictures ``uint8[H, W, 3]``."""
    if made.kind == "image":
        return made.original, made.decoded
    if made.kind == "clip":
        return contact_sheet(made.original), contact_sheet(made.decoded)
    from tokenmill_pipelines.report.render import render

    original = render(made.kind, made.original, up=made.up)
    return original, render(made.kind, made.decoded, up=made.up, like=made.original)


def contact_sheet(clip: Array) -> Pixels:
    """Return the first, middle and last frame of ``uint8[T, H, W, 3]`` side by side.

    A clip of one or two frames shows what it has.
    """
    places = sorted({0, len(clip) // 2, len(clip) - 1})
    frames = [_small(clip[place]) for place in places]
    line = np.full((frames[0].shape[0], GAP, 3), 255, np.uint8)
    row = [frames[0]]
    for frame in frames[1:]:
        row += [line, frame]
    sheet: Pixels = np.concatenate(row, axis=1)
    return sheet


def _small(frame: Array) -> Pixels:
    image = Image.fromarray(frame)
    image.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)
