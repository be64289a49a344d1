"""How near a reconstruction comes to its original: pure functions of two arrays, numpy alone.

=========== ==================================================================
pixels      `psnr_db` of pictures and of the frames of clips
structure   `ssim`, `ms_ssim`, and both at once against one original
volumes     `iou` of occupancies
geometry    `shared_faces` of meshes, `chamfer` of point clouds
frechet     `frechet_distance` of two sets of features
strings     `edit_distance` and `common_length` of recognised texts
=========== ==================================================================
"""

from __future__ import annotations

from tokenmill.measures.frechet import frechet_distance
from tokenmill.measures.geometry import chamfer, shared_faces
from tokenmill.measures.pixels import PSNR_CAP_DB, frames_of, mean_squared_error, psnr_db
from tokenmill.measures.strings import common_length, edit_distance
from tokenmill.measures.structure import Structure, ms_ssim, ssim
from tokenmill.measures.volumes import iou

__all__ = [
    "PSNR_CAP_DB",
    "Structure",
    "chamfer",
    "common_length",
    "edit_distance",
    "frames_of",
    "frechet_distance",
    "iou",
    "mean_squared_error",
    "ms_ssim",
    "psnr_db",
    "shared_faces",
    "ssim",
]
