"""How near a reconstruction comes to its original: one figure for each kind of view."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tokenmill.measures import iou, shared_faces
from tokenmill_pipelines.report import text
from tokenmill_pipelines.report.record import Reconstruction


def figure(made: Reconstruction) -> str:
    """Return what is written below one reconstruction."""
    if made.kind in {"image", "clip"}:
        return text.decibels(made.psnr_db)
    if made.kind == "voxels":
        return f"IoU {iou(made.original, made.decoded):.3f}"
    if made.kind == "mesh":
        share = shared_faces(made.original, made.decoded)
        return "every face" if share == 1 else f"{text.percent(share)} of faces"
    return f"{len(made.original):,} → {len(made.decoded):,}"


def summary(reconstructions: Iterable[Reconstruction]) -> str:
    """Return the mean figures over all reconstructions, "" without any."""
    made = list(reconstructions)
    pixels = [r.psnr_db for r in made if r.kind in {"image", "clip"}]
    apart = [value for value in pixels if math.isfinite(value)]
    parts = []
    if apart:
        mean = sum(apart) / len(apart)
        parts.append(f"mean PSNR {text.decibels(mean)} over {len(apart)} views")
    if len(apart) < len(pixels):
        parts.append(f"{len(pixels) - len(apart)} given back exactly")
    ious = [iou(r.original, r.decoded) for r in made if r.kind == "voxels"]
    if ious:
        parts.append(f"mean IoU {sum(ious) / len(ious):.3f} over {len(ious)} views")
    faces = [shared_faces(r.original, r.decoded) for r in made if r.kind == "mesh"]
    if faces:
        parts.append(f"{sum(share == 1 for share in faces)} of {len(faces)} meshes face for face")
    return ", ".join(parts)
