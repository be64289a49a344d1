"""Which figures a view of each kind has, and how they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenmill.measures import (
    PSNR_CAP_DB,
    Structure,
    chamfer,
    frames_of,
    iou,
    psnr_db,
    shared_faces,
)
from tokenmill.tokenizers.base import Array
from tokenmill.views.base import ViewKind


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a reconstruction: its key in documents, and how people read it."""

    key: str
    label: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 3

    def text(self, value: float | None) -> str:
        """Return a value as people read it."""
        if value is None:
            return "-"
        return f"{value:.{self.digits}f}{' ' + self.unit if self.unit else ''}"


PSNR = Measure("psnr_db", "PSNR", "dB", digits=2)
SSIM = Measure("ssim", "SSIM")
MS_SSIM = Measure("ms_ssim", "MS-SSIM")
PIXELS = (PSNR, SSIM, MS_SSIM)
IOU = Measure("iou", "IoU")
CHAMFER = Measure("chamfer", "Chamfer distance", higher_is_better=False, digits=4)
FACES = Measure("shared_faces", "shared faces")

#: The figures of each kind of view; the first is the one that views are ranked by.
MEASURES: dict[ViewKind, tuple[Measure, ...]] = {
    "image": PIXELS,
    "clip": PIXELS,
    "voxels": (IOU,),
    "points": (CHAMFER,),
    "mesh": (FACES,),
    "gaussians": (CHAMFER,),
}
#: What the sizes of a view count.
UNITS: dict[ViewKind, str] = {
    "image": "pixel",
    "clip": "pixel",
    "voxels": "cell",
    "points": "point",
    "mesh": "face",
    "gaussians": "splat",
}
#: What computes the figure of kinds that have but one.
SINGLE: dict[str, tuple[Measure, Callable[[Array, Array], float]]] = {
    "voxels": (IOU, iou),
    "points": (CHAMFER, chamfer),
    "mesh": (FACES, shared_faces),
    "gaussians": (CHAMFER, chamfer),
}

Values = dict[str, float]


def units_of(kind: ViewKind, data: Array) -> int:
    """Return how many pixels, cells, points, faces or splats a view has."""
    if kind in ("image", "clip"):
        return data[..., 0].size
    return data.size if kind == "voxels" else len(data)


def measure(kind: ViewKind, original: Array, decoded: Array) -> Values:
    """Return the figures of one reconstruction; those that it cannot have are left out.

    Of clips they are means over the frames. PSNR is at most `PSNR_CAP_DB`.

    Raises:
        ValueError: the reconstruction has another shape than the view.
    """
    return Original(kind, original).compare(decoded)


class Original:
    """A view to hold several reconstructions against; what depends on it alone is done once."""

    def __init__(self, kind: ViewKind, data: Array) -> None:
        self.kind: ViewKind = kind
        self.data = data
        self._frames = frames_of(data) if kind in ("image", "clip") else None
        # Kept of a picture; a clip's frames are compared once each, and would take much memory.
        self._structure = Structure(data) if kind == "image" else None

    def compare(self, decoded: Array) -> Values:
        """Return the figures of one reconstruction, as `measure` does."""
        if self._frames is None:
            measure_, function = SINGLE[self.kind]
            return {measure_.key: function(self.data, decoded)}
        if decoded.shape != self.data.shape:
            text = f"decodes to {list(decoded.shape)}, not {list(self.data.shape)}"
            raise ValueError(text)
        rows = [self._pair(a, b) for a, b in zip(self._frames, frames_of(decoded), strict=True)]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    def _pair(self, frame: Array, decoded: Array) -> Values:
        whole, multi = (self._structure or Structure(frame)).compare(decoded)
        found = {
            PSNR.key: psnr_db(frame, decoded, cap_db=PSNR_CAP_DB),
            SSIM.key: whole,
            MS_SSIM.key: multi,
        }
        return {key: value for key, value in found.items() if value is not None}
