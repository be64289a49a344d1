"""What the report shows of clips and shapes."""

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest

from tokenmill.measures import iou, shared_faces
from tokenmill_pipelines.report.drawing import FRAME_SIDE, GAP, contact_sheet, draw
from tokenmill_pipelines.report.fidelity import figure, summary
from tokenmill_pipelines.report.page import write_report
from tokenmill_pipelines.report.record import Reconstruction, RunRecord

TETRAHEDRON = np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8]])
FACES = TETRAHEDRON[[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]].astype(np.int32)


def clip(frames: int, height: int = 8, width: int = 12) -> np.ndarray[Any, Any]:
    """A clip whose frames are flat, each a shade lighter than the last."""
    shades = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(shades, (frames, height, width, 3)).copy()


@pytest.mark.parametrize(
    ("frames", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 4, 8])]
)
def test_a_contact_sheet_has_the_first_middle_and_last_frame(frames: int, shown: list[int]) -> None:
    """Each once, from left to right, with a line between them."""
    sheet = contact_sheet(clip(frames))
    assert sheet.shape == (8, len(shown) * 12 + (len(shown) - 1) * GAP, 3)
    assert [int(sheet[0, place * (12 + GAP), 0]) for place in range(len(shown))] == shown


def test_frames_of_a_contact_sheet_are_small() -> None:
    """A page does not carry three full frames."""
    assert contact_sheet(clip(3, 600, 900)).shape[1] == 3 * FRAME_SIDE + 2 * GAP


def test_a_clip_is_judged_over_all_its_frames() -> None:
    """PSNR is of the whole clip, not of the three frames that are shown."""
    one, other = clip(9), clip(9)
    other[1] += 9
    made = Reconstruction("a", one, other, kind="clip")
    assert made.psnr_db == pytest.approx(10 * math.log10(255**2 / 9))
    assert figure(made) == "38.6 dB"


def test_voxels_are_judged_by_their_overlap() -> None:
    """Intersection over union; two empty volumes agree."""
    one, other = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    assert iou(one, other) == 1.0
    one[0, 0, :3], other[0, 0, 1:] = True, True
    assert iou(one, other) == 0.5
    assert summary([Reconstruction("a", one, other, kind="voxels")]) == (
        "mean IoU 0.500 over 1 views"
    )


def test_meshes_are_judged_by_their_faces() -> None:
    """Whichever way a face is turned and wherever it stands, it is the same face."""
    turned = FACES[::-1][:, [1, 2, 0]]
    assert shared_faces(FACES, turned) == 1.0
    assert shared_faces(FACES, FACES[:2]) == 0.5
    whole = Reconstruction("a", FACES, turned, kind="mesh")
    half = Reconstruction("b", FACES, FACES[:2], kind="mesh")
    assert figure(whole) == "every face"
    assert summary([whole, half]) == "1 of 2 meshes face for face"


@pytest.mark.parametrize("kind", ["mesh", "voxels", "points", "gaussians"])
def test_shapes_are_drawn(kind: Any) -> None:
    """Each kind of 3D view has a picture that is not empty, and equal data equal pictures."""
    block = np.zeros((8, 8, 8), bool)
    block[2:6, 2:6, 2:4] = True
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    splat = np.zeros((200, 17), np.float32)
    splat[:, :3], splat[:, 13] = points, 1
    data = {"mesh": FACES, "voxels": block, "points": points, "gaussians": splat}[kind]
    one, other = draw(Reconstruction("a", data, data.copy(), kind=kind))
    assert one.dtype == np.uint8
    assert one.shape == other.shape == (256, 256, 3)
    assert np.array_equal(one, other)
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 16


def test_a_page_of_clips_says_what_stands_where() -> None:
    """Sheets stand one above the other, and the page says so."""
    made = (Reconstruction("a.mp4", clip(9), clip(9), view="clip_3", kind="clip"),)
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    page = write_report(RunRecord("clips", "s", start, start, reconstructions=made)).decode()
    assert "first, middle and last frame" in page
    assert '<figure class="clip">' in page
    assert "a.mp4 (clip_3)" in page
