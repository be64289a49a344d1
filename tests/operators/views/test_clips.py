from __future__ import annotations

import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.testing.videos import MemoryVideo
from tokenmill.testing.views import check_clips
from tokenmill.views import open_view
from tokenmill.views.base import LongView, ViewOf
from tokenmill.views.timing import as_lengths
from tokenmill_schemas.errors import AssetError, JobError, Reason

SIZE = 16
TINY = (20, 24)


def film(frames: int, **more: Any) -> MemoryVideo:
    """A video of 25 fps; frames are its numbers, 40 ms each."""
    return MemoryVideo([40 * i for i in range(frames)], TINY, **more)


def read(length: int, /, **options: Any) -> list[tuple[str, list[int]]]:
    """Return name and frame numbers of each clip of a film, checked in every other respect."""
    view = open_view("clips", {"size": SIZE, **options})
    views = check_clips(view, lambda: film(length))
    return [
        (v.coordinates["view.name"], [t // 40 for t in v.coordinates["view.pts"]]) for v in views
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 5}, {"frames": 5, "stride": 2}, {"frames": 4, "stride": 11}, {"frames": 0},
        {"frames": 5, "fps": 7.0}, {"frames": 5, "fps": 60.0}, {"frames": 0, "frames_rule": "1+8k"},
        {"frames": 0, "max_frames": 7}, {"frames": 0, "fps": 10.0, "frames_rule": "4k"},
        {"frames": 9, "tail": "repeat_last"}, {"size": [16, 24], "rule": "cover"},
        {"frames": 3, "max_clips": 2},
    ],
)  # fmt: skip
def test_clips_keep_the_contract(options: dict[str, Any]) -> None:
    """Pickling, determinism, sizes, times, columns and numbers, for every way to cut."""
    check_clips(open_view("clips", {"size": SIZE, **options}), lambda: film(53))


@pytest.mark.parametrize("rule", ["adm", "bicubic", "lanczos", "var", "taming", "squash_bilinear"])
@pytest.mark.parametrize("size", [(20, 24), (90, 61), (41, 200)])
def test_a_frame_is_read_as_a_picture_is(rule: str, size: tuple[int, int]) -> None:
    """A clip of one frame has the pixels and the box of center_crop of that frame, to the bit."""
    video = MemoryVideo([0, 40, 80], size)
    clips = check_clips(open_view("clips", {"size": 16, "rule": rule, "frames": 1}), lambda: video)
    crop = open_view("center_crop", {"size": 16, "rule": rule})
    for number, clip in enumerate(clips):
        picture = Picture(Image.fromarray(video.pixels(number)), {})
        (view,) = crop.views(picture, "")
        assert np.array_equal(clip.data[0], view.data)
        for name in ("view.box", "view.size", "view.flip"):
            assert clip.coordinates[name] == view.coordinates[name]


def test_windows_follow_their_stride() -> None:
    """Windows side by side, overlapping, and with gaps; an incomplete last one is left out."""
    assert read(11, frames=4) == [("clip_0", [0, 1, 2, 3]), ("clip_1", [4, 5, 6, 7])]
    assert [c[1][0] for c in read(11, frames=4, stride=3)] == [0, 3, 6]
    assert [c[1] for c in read(11, frames=2, stride=5)] == [[0, 1], [5, 6]]


def test_what_is_left_may_be_filled_up() -> None:
    """A tail repeats its last frame, if it has a frame that no window had."""
    assert read(10, frames=4, tail="repeat_last")[-1] == ("clip_2", [8, 9, 9, 9])
    assert read(8, frames=4, tail="repeat_last")[-1] == ("clip_1", [4, 5, 6, 7])
    assert read(9, frames=4, stride=2, tail="repeat_last")[-1][1] == [6, 7, 8, 8]
    assert read(8, frames=4, stride=2, tail="repeat_last")[-1][1] == [4, 5, 6, 7]


@given(
    frames=st.integers(0, 40), window=st.integers(1, 9), stride=st.integers(1, 12),
    tail=st.sampled_from(["drop", "repeat_last"]), short=st.sampled_from(["drop", "repeat_last"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_windows_by_their_definition(
    frames: int, window: int, stride: int, tail: str, short: str
) -> None:
    """Windows start at multiples of the stride; what none of them covers may give one more."""
    expected = [list(range(a, a + window)) for a in range(0, frames - window + 1, stride)]
    start = len(expected) * stride
    beyond = max(start, expected[-1][-1] + 1 if expected else 0)
    if beyond < frames and (tail if expected else short) == "repeat_last":
        rest = list(range(start, frames))
        expected.append(rest + [frames - 1] * (window - len(rest)))
    options = {"frames": window, "stride": stride, "tail": tail, "short": short}
    if expected:
        assert [c[1] for c in read(frames, **options)] == expected
        return
    with pytest.raises(AssetError) as caught:
        read(frames, **options)
    assert caught.value.reason is Reason.TOO_SHORT


def joined(view: ViewOf | LongView) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return all frames of a view and its coordinates."""
    if isinstance(view, ViewOf):
        return view.data, view.coordinates
    return np.concatenate(list(view.parts)), view.coordinates()


@given(
    frames=st.integers(1, 60), rule=st.sampled_from(["any", "1+4k", "1+8k", "4k", "16k", "3+5k"]),
    least=st.integers(1, 12), most=st.integers(0, 30), part=st.integers(1, 9),
    remainders=st.tuples(*[st.sampled_from(["drop", "repeat_last"])] * 2),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_whole_videos_are_cut_down_to_an_allowed_length(
    frames: int, rule: str, least: int, most: int, part: int, remainders: tuple[str, str]
) -> None:
    """By definition: pieces of the largest length, a shorter one, or one that is filled up."""
    lengths = as_lengths(rule)
    smallest, largest = lengths.up(least), lengths.down(most) if most else frames
    if most and largest < smallest:
        return
    options: dict[str, Any] = {"frames_rule": rule, "min_frames": least, "max_frames": most}
    options |= {"frames": 0, "short": remainders[0], "tail": remainders[1], "size": SIZE}
    expected: list[list[int]] = []
    for start in range(0, frames, largest):
        rest = min(frames - start, largest)
        numbers = list(range(start, start + lengths.down(rest)))
        if rest < smallest:
            numbers = [*range(start, start + rest), *[frames - 1] * (smallest - rest)]
            numbers = numbers if remainders[bool(start)] == "repeat_last" else []
        if numbers:
            expected.append(numbers)
    video = film(frames)
    view = open_view("clips", options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill.views.clips.PART_FRAMES", part)
        if not expected:
            with pytest.raises(AssetError, match="for a clip"):
                list(view.views(video, ""))
            return
        clips = [joined(each) for each in view.views(video, "")]
    assert [[t // 40 for t in c["view.pts"]] for _, c in clips] == expected
    for pixels, coordinates in clips:
        assert len(pixels) == len(coordinates["view.pts"])


def test_long_clips_come_in_parts_of_bounded_memory() -> None:
    """1,000 frames come 64 at a time, one group of the rule behind what the decoder gave."""
    video = film(1000)
    options = {"size": SIZE, "frames": 0, "frames_rule": "1+8k"}
    view = next(open_view("clips", options).views(video, ""))
    assert isinstance(view, LongView)
    total = 0
    for part in view.parts:
        total += len(part)
        assert len(part) <= 64
        assert video.asked < total + 64 + 8
    assert total == 993
    coordinates = view.coordinates()
    assert coordinates["view.pts"] == [40 * i for i in range(993)]
    assert (coordinates["view.start_s"], coordinates["view.end_s"]) == (0, 39.68)


def test_parts_are_those_of_the_clip_in_one_piece() -> None:
    """The pixels of a long view are those of its frames one by one."""
    options = {"size": SIZE, "fps": 20.0}
    view = next(open_view("clips", {**options, "frames": 0}).views(film(200), ""))
    pixels, coordinates = joined(view)
    frames = list(open_view("clips", {**options, "frames": 1}).views(film(200), ""))
    assert np.array_equal(pixels, np.concatenate([each.data for each in frames]))
    assert coordinates["view.pts"] == [each.coordinates["view.pts"][0] for each in frames]


def test_a_long_clip_that_is_not_read_to_its_end_does_not_spoil_the_next() -> None:
    """What is left of it is passed over, and not converted."""
    video = film(400)
    options = {"size": SIZE, "frames": 0, "max_frames": 200}
    views = open_view("clips", options).views(video, "")
    next(next(views).parts)
    assert joined(next(views))[1]["view.pts"] == [40 * i for i in range(200, 400)]
    assert len(video.converted) == 65 + 200


def test_only_chosen_frames_are_converted() -> None:
    """Between windows, and between output times, frames are decoded and no more."""
    video = film(100)
    list(open_view("clips", {"size": SIZE, "frames": 2, "stride": 25}).views(video, ""))
    assert video.converted == [0, 1, 25, 26, 50, 51, 75, 76]
    video = film(100)
    list(open_view("clips", {"size": SIZE, "frames": 4, "fps": 2.5}).views(video, ""))
    assert video.converted == list(range(0, 100, 10))
    assert video.passes == 1


def test_repeated_frames_are_read_once() -> None:
    """At twice the source's rate every frame but the last stands twice, from one conversion."""
    video = film(4)
    (clip,) = open_view("clips", {"size": SIZE, "frames": 7, "fps": 50.0}).views(video, "")
    assert clip.coordinates["view.pts"] == [0, 0, 40, 40, 80, 80, 120]
    assert video.converted == [0, 1, 2, 3]
    assert np.array_equal(clip.data[0], clip.data[1])


def test_the_bound_on_clips_ends_the_reading() -> None:
    """After max_clips the decoder is not asked again."""
    video = film(100)
    views = list(open_view("clips", {"size": SIZE, "frames": 5, "max_clips": 3}).views(video, ""))
    assert [v.coordinates["view.index"] for v in views] == [0, 1, 2]
    assert video.asked == 14


def test_times_are_the_presentation_times() -> None:
    """A video that starts at 2 s in a base of 1/90000 tells its own times, in seconds too."""
    video = MemoryVideo([180_000 + 3600 * i for i in range(8)], TINY, Fraction(1, 90_000))
    (clip,) = check_clips(open_view("clips", {"size": SIZE, "frames": 8}), lambda: video)
    assert clip.coordinates["view.pts"][:2] == [180_000, 183_600]
    assert (clip.coordinates["view.start_s"], clip.coordinates["view.end_s"]) == (2.0, 2.28)
    assert (clip.coordinates["view.fps"], clip.coordinates["view.shot"]) == (0.0, -1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 16}, "15 frames as they come; no 16 of them for a clip"),
        ({"frames": 16, "fps": 5.0}, "3 frames at 5 fps; no 16 of them for a clip"),
        ({"frames": 0, "frames_rule": "1+8k", "min_frames": 12}, "no 17 of them for a clip"),
    ],
)
def test_short_videos_are_filtered(options: dict[str, Any], message: str) -> None:
    """A video that gives no clip says how many frames there were and how many it takes."""
    with pytest.raises(AssetError, match=message) as caught:
        list(open_view("clips", {"size": SIZE, **options}).views(film(15), ""))
    assert caught.value.reason is Reason.TOO_SHORT
    assert (caught.value.uri, caught.value.stage) == ("mem://video", "view")


def test_small_and_thin_videos_are_refused_as_pictures_are() -> None:
    """Before a frame is read."""
    with pytest.raises(AssetError, match="24x20 has a side below min_side = 21") as caught:
        list(open_view("clips", {"size": SIZE, "min_side": 21}).views(film(20), ""))
    assert caught.value.reason is Reason.TOO_SMALL
    thin = MemoryVideo([0], (1, 100_000))
    with pytest.raises(AssetError, match="would be resized") as caught:
        list(open_view("clips", {"frames": 1}).views(thin, ""))
    assert caught.value.reason is Reason.TOO_MANY_PIXELS
    assert thin.converted == []


def test_what_decoding_brings_to_light_passes_through() -> None:
    """Clips before the damage are given, then the decoder's own error."""
    damage = AssetError(Reason.TRUNCATED, "ends early")
    views = open_view("clips", {"size": SIZE, "frames": 4}).views(
        film(20, fails=damage, fails_at=10), ""
    )
    assert [next(views).coordinates["view.name"] for _ in range(2)] == ["clip_0", "clip_1"]
    with pytest.raises(AssetError, match="ends early"):
        next(views)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 16, "frames_rule": "1+4k"}, r"^view: frames = 16 is not allowed by '1\+4k'"),
        ({"frames_rule": "4"}, "frames_rule is 'any', 'bk' or"),
        ({"frames": -1}, "frames must not be negative"),
        ({"fps": -1.0}, "fps must be 0"),
        ({"fps": float("nan")}, "fps must be 0"),
        ({"max_clips": 0}, "max_clips must be positive"),
        ({"max_clips": 65_536}, "max_clips is at most 65535"),
        ({"frames": 0, "stride": 4}, "stride is for windows"),
        ({"frames": 16, "max_frames": 32}, "are for frames = 0"),
        ({"frames": 0, "frames_rule": "16k", "min_frames": 17, "max_frames": 31}, "no length of"),
        ({"frames": 0, "min_frames": 5000}, "min_frames is at most 1024"),
        ({"short": "filter"}, r"^view\.short: is 'filter'"),
        ({"shots": "contents"}, r"^view\.shots: is 'contents'; did you mean 'content'"),
        ({"shots": "transnetv2"}, "which needs them"),
        ({"shots": "content", "weights": "a.onnx"}, "which needs them"),
        ({"weights": "a.onnx"}, "of no use with shots = 'none'"),
        ({"shots": "content", "shot_threshold": -1.0}, "shot_threshold must be 0 or more"),
        ({"shots": "content", "min_shot_s": float("inf")}, "min_shot_s must be 0 or more"),
        ({"size": [16, 24]}, "rule 'adm' gives squares"),
    ],
)
def test_bad_options_name_what_to_mend(options: dict[str, Any], message: str) -> None:
    """Every option is checked when the view is opened."""
    with pytest.raises(JobError, match=message):
        open_view("clips", options)


def test_shapes_say_what_is_fixed() -> None:
    """The number of frames varies only where clips are as long as what they show."""
    assert open_view("clips", {"size": 32, "frames": 17}).shape == (17, 32, 32)
    assert open_view("clips", {"size": 32, "frames": 0}).shape == (None, 32, 32)
    assert len(pickle.dumps(open_view("clips"))) < 1000


def test_the_identity_has_all_options_and_versions() -> None:
    """Any option changes it; the path of weights is none."""
    plain = open_view("clips").identity
    assert plain["view"] == "clips"
    assert plain["pillow"]
    assert "weights" not in plain
    assert open_view("clips", {"stride": 8}).identity != plain
