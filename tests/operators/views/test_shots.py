from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.views.tiny_onnx import tiny_onnx

from tokenmill.testing.videos import MemoryFrame, MemoryVideo
from tokenmill.testing.views import check_clips
from tokenmill.views import open_view, transnet
from tokenmill.views.base import Pixels
from tokenmill.views.shots import Shot, ShotRule, in_shots, small_size
from tokenmill_schemas.errors import AssetError, CheckpointError, JobError, Reason

SIZE = (36, 64)
FRAMES = (1, 100, 27, 48, 3)


def film(*lengths: int, start: int = 0, step: int = 40) -> MemoryVideo:
    """A video whose shots have so many frames; in one shot all frames are alike."""
    look = [shot for shot, length in enumerate(lengths) for _ in range(length)]
    return MemoryVideo([start + step * i for i in range(len(look))], SIZE, look=look)


def lengths_of(shots: tuple[Shot, ...], video: MemoryVideo) -> list[int]:
    """Return how many frames each shot has."""
    return [sum(s.start <= t < s.stop for t in video.times) for s in shots]


@pytest.mark.parametrize("detector", ["content", "adaptive"])
@pytest.mark.parametrize("start", [0, -5000, 10**9])
def test_hard_cuts_are_found_to_the_frame(detector: Any, start: int) -> None:
    """A shot begins with the first frame that looks otherwise, whenever time begins."""
    video = film(25, 40, 18, 30, start=start)
    shots = ShotRule(detector).find(video)
    assert lengths_of(shots, video) == [25, 40, 18, 30]
    assert [s.number for s in shots] == [0, 1, 2, 3]
    assert video.converted == []


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_a_minimum_length_is_in_seconds(detector: Any) -> None:
    """Eight frames of 40 ms are too few for 0.6 s, and enough at 200 ms a frame or for 0.3 s."""
    slow = film(25, 8, 30, step=200)
    assert lengths_of(ShotRule(detector).find(slow), slow) == [25, 8, 30]
    fast = film(25, 8, 30)
    assert lengths_of(ShotRule(detector, min_s=0.3).find(fast), fast) == [25, 8, 30]
    assert len(ShotRule(detector).find(fast)) == 2


def test_a_high_threshold_sees_no_cut() -> None:
    """The threshold reaches the detector, and a video without cuts is one shot."""
    video = film(25, 40)
    (shot,) = ShotRule("content", threshold=250.0).find(video)
    assert (shot.start, shot.stop) == (0, video.times[-1] + 1)


def test_frames_are_compared_small() -> None:
    """256 pixels on the longer side, never enlarged, never nothing."""
    assert small_size((1080, 1920)) == (144, 256)
    assert small_size((1920, 1080)) == (256, 144)
    assert small_size((100, 90)) == (100, 90)
    assert small_size((1, 9000)) == (1, 256)


@given(st.integers(1, 320))
@settings(max_examples=40, deadline=None)
def test_every_frame_is_scored_once_in_order(count: int) -> None:
    """A network that tells a frame's number gives the numbers, however the windows fall."""
    frames = [np.full((27, 48, 3), n % 251, np.uint8) for n in range(count)]

    def number(window: Pixels) -> transnet.Scores:
        return window[:, 0, 0, 0].astype(np.float32)

    assert list(transnet.scores(iter(frames), number)) == [n % 251 for n in range(count)]


@pytest.mark.parametrize("count", [1, 49, 50, 51, 100, 175])
def test_windows_are_the_authors(count: int) -> None:
    """25 copies of the first frame, the frames, copies of the last up to whole windows; step 50."""
    frames = [np.full((27, 48, 3), n, np.uint8) for n in range(count)]
    after = 25 + 50 - (count % 50 or 50)
    padded = [0] * 25 + list(range(count)) + [count - 1] * after
    expected = [padded[i : i + 100] for i in range(0, len(padded) - 99, 50)]
    got = [window[:, 0, 0, 0].tolist() for window, _ in transnet.windows(iter(frames))]
    assert got == expected


@pytest.mark.parametrize(
    ("above", "shots"),
    [
        ("", []),
        ("0", [(0, 0)]),
        ("00000", [(0, 4)]),
        ("00100", [(0, 2), (3, 4)]),
        ("0011100", [(0, 2), (5, 6)]),
        ("0001", [(0, 3)]),
        ("1", [(0, 0)]),
        ("1111", [(0, 3)]),
        ("1100", [(2, 3)]),
        ("11001", [(2, 4)]),
        ("0101", [(0, 1), (2, 3)]),
    ],
)
def test_transitions_divide_shots(above: str, shots: list[tuple[int, int]]) -> None:
    """A shot takes the first frame of the transition that ends it, as in the authors' code."""
    assert list(transnet.stretches([c == "1" for c in above])) == shots


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network whose score is a frame's brightness."""
    path = tmp_path / "brightness.onnx"
    path.write_bytes(tiny_onnx(FRAMES, kind=2))
    return path


class Flashes(MemoryVideo):
    """A dark video with white frames where its look is 1."""

    __slots__ = ()

    def pixels(self, number: int) -> Pixels:
        """Return a frame that is black or white."""
        return np.full((*self.size, 3), 255 * self.look[number], np.uint8)


def flashes(pattern: str, repeat: int) -> Flashes:
    """A video of 25 fps in which every character stands for ``repeat`` frames."""
    look = [int(c) for c in pattern for _ in range(repeat)]
    return Flashes([40 * i for i in range(len(look))], SIZE, look=look)


def test_transnet_runs_in_onnxruntime(network: Path) -> None:
    """Shots lie between the frames that score high; a slow transition belongs to none."""
    video = flashes("000100010000", 20)
    shots = ShotRule("transnetv2", weights=str(network)).find(video)
    assert [(s.start // 40, (s.stop - 1) // 40) for s in shots] == [(0, 60), (80, 140), (160, 239)]
    assert [s.number for s in shots] == [0, 1, 2]


def test_shots_that_are_too_short_are_left_out(network: Path) -> None:
    """Those of TransNetV2 are what they are: they are not joined to a neighbour."""
    video = flashes("0000100100000", 10)
    rule = ShotRule("transnetv2", weights=str(network), min_s=1.0)
    assert [s.start // 40 for s in rule.find(video)] == [0, 80]


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("zero", [0.0, 100.0])
def test_exports_of_both_kinds_give_probabilities(tmp_path: Path, kind: int, zero: float) -> None:
    """Networks of uint8 and float32, with and without the sigmoid at their end."""
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx(FRAMES, kind=kind, zero=zero))
    predict = transnet.open_predictor(path)
    assert predict.logits == (zero > 0)
    window = np.zeros(FRAMES[1:], np.uint8)
    window[60:] = 204
    expected = (np.array([0.0, 204.0]) - zero) / 255
    if zero:
        expected = 1 / (1 + np.exp(-expected))
    assert predict(window)[[0, 60]] == pytest.approx(expected, abs=1e-6)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    """By what they take, and by not being a network at all."""
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny_onnx((1, 3, 100, 27, 48), kind=2))
    with pytest.raises(CheckpointError, match=r"^view\.weights: takes tensor\(uint8\) \[1, 3, 100"):
        transnet.open_predictor(other)
    other.write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"other\.onnx is no ONNX network"):
        transnet.open_predictor(other)


class Session:
    """An onnxruntime session that gives one score for all frames."""

    class Taken:
        """Its input."""

        name, type, shape = "x", "tensor(float)", ["batch", 100, 27, 48, 3]

    def get_inputs(self) -> list[Any]:
        """Return the inputs."""
        return [self.Taken]

    def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
        """Return one number."""
        return [np.zeros(1)]


def test_a_network_that_scores_no_frames_is_refused() -> None:
    """It takes the right thing and gives the wrong one."""
    with pytest.raises(CheckpointError, match="gives shape"):
        transnet.predictor_of(Session())


def test_missing_weights_and_libraries_are_job_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told when the job is planned: the identity needs them."""
    view = open_view("clips", {"shots": "transnetv2", "weights": "/nowhere/a.onnx"})
    with pytest.raises(JobError, match=r"^view\.weights: there is no file /nowhere/a\.onnx"):
        _ = view.identity

    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(JobError, match="'content' needs scenedetect, which is not installed"):
        _ = open_view("clips", {"shots": "content"}).identity
    assert open_view("clips").identity


def test_the_identity_names_what_finds_shots(network: Path, tmp_path: Path) -> None:
    """Versions, the threshold in use and the weights' bytes, wherever they lie."""
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(network.read_bytes())
    options = {"shots": "transnetv2", "weights": str(network)}
    first = open_view("clips", options).identity
    assert first == open_view("clips", options | {"weights": str(copy)}).identity
    assert first["shot_detector"]["threshold"] == 0.5
    assert len(first["shot_detector"]["weights_sha256"]) == 64
    copy.write_bytes(tiny_onnx(FRAMES, kind=1))
    assert first != open_view("clips", options | {"weights": str(copy)}).identity
    content = open_view("clips", {"shots": "content"}).identity["shot_detector"]
    assert content["threshold"] == 27.0
    assert content["scenedetect"]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=8))
def test_frames_are_sorted_into_shots(sizes: list[tuple[int, int]]) -> None:
    """Shots with gaps between them; what lies in a gap, before and behind is passed over."""
    shots, at = [], 3
    for number, (length, gap) in enumerate(sizes):
        shots.append(Shot(number, at, at + length))
        at += length + gap
    video = MemoryVideo(range(at + 5), SIZE)
    got = {n: [f.pts for f in inside] for n, inside in in_shots(video.frames(), shots)}
    assert got == {s.number: list(range(s.start, s.stop)) for s in shots}


def clips(video: MemoryVideo, **options: Any) -> list[tuple[str, int, list[int]]]:
    """Return name, shot and frame numbers of the clips in a video's shots."""
    view = open_view("clips", {"size": 16, "shots": "content", **options})
    views = [each.coordinates for each in check_clips(view, lambda: video)]
    return [(v["view.name"], v["view.shot"], [t // 40 for t in v["view.pts"]]) for v in views]


def test_one_clip_for_every_shot() -> None:
    """Each from its first frame to its last, in two passes, with its number."""
    video = film(25, 40, 30)
    assert clips(video, frames=0) == [
        ("shot_0", 0, list(range(25))),
        ("shot_1", 1, list(range(25, 65))),
        ("shot_2", 2, list(range(65, 95))),
    ]


def test_no_window_crosses_a_cut() -> None:
    """Windows begin anew in every shot; shots that are shorter give none."""
    got = clips(film(25, 40, 20), frames=11)
    assert [(name, frames[0]) for name, _, frames in got] == [
        ("shot_0/clip_0", 0), ("shot_0/clip_1", 11),
        ("shot_1/clip_0", 25), ("shot_1/clip_1", 36), ("shot_1/clip_2", 47),
        ("shot_2/clip_0", 65),
    ]  # fmt: skip
    assert {shot for _, shot, _ in clips(film(25, 40, 20), frames=21)} == {0, 1}
    filled = clips(film(25, 40, 20), frames=21, short="repeat_last")[-1]
    assert filled == ("shot_2/clip_0", 2, [*range(65, 85), 84])


def test_output_times_do_not_take_frames_of_the_next_shot() -> None:
    """At 10 fps a time just before a cut may lie nearer to the frame behind it."""
    got = clips(film(24, 40), frames=0, fps=10.0)
    assert [(shot, frames[0], frames[-1]) for _, shot, frames in got] == [(0, 0, 22), (1, 25, 62)]
    for _, _, frames in got:
        assert all(b - a in (2, 3) for a, b in itertools.pairwise(frames))


def test_long_shots_are_cut_into_pieces() -> None:
    """With max_frames a shot gives several clips, named after it."""
    got = clips(film(25, 40), frames=0, frames_rule="1+4k", max_frames=20, min_frames=5)
    assert [(name, len(frames)) for name, _, frames in got] == [
        ("shot_0/0", 17), ("shot_0/1", 5), ("shot_1/0", 17), ("shot_1/1", 17), ("shot_1/2", 5),
    ]  # fmt: skip


def test_a_video_of_short_shots_is_too_short() -> None:
    """The message says where frames were looked for."""
    with pytest.raises(AssetError, match="65 frames as they come; no 50 of them in any shot"):
        clips(film(25, 40), frames=50)
    damage = AssetError(Reason.CORRUPT, "damaged")
    broken = MemoryVideo([0, 40, 80], SIZE, fails=damage, fails_at=2)
    with pytest.raises(AssetError, match="damaged"):
        clips(broken, frames=0)


def test_variable_rates_are_cut_by_time() -> None:
    """Cuts are timestamps, so that frames of any length fall on their own side."""
    video = film(25, 40)
    video.times = [7 * i + (i % 3) for i in range(65)]
    shots = ShotRule("content", min_s=0.1).find(video)
    assert [s.start for s in shots] == [0, video.times[25]]
    base = MemoryVideo(video.times, SIZE, Fraction(1, 30), look=video.look)
    assert [s.start for s in ShotRule("content").find(base)] == [0, video.times[25]]


def test_memory_frames_hold_views_to_the_protocol() -> None:
    """The fake that these tests stand on refuses a frame that is no longer valid."""
    frames: Iterator[MemoryFrame] = film(9).frames()
    first, _ = next(frames), next(frames)
    assert first.rgb().shape == (*SIZE, 3)
    next(frames)
    with pytest.raises(RuntimeError, match="frame 0 is read when 2 is there"):
        first.rgb()
