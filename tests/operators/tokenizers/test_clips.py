"""The base of clip tokenizers: time beside height and width, and the lengths that are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tokenmill.tokenizers.clip_grid import CAUSAL_4, CAUSAL_8, Frames, clip_grid
from tokenmill.tokenizers.clips import HALF, ClipEncoder
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

GRID = (Axis("t"), Axis("h"), Axis("w"))


class Levels(nn.Module):
    """A clip network whose ids are the red values themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 1, 1, 1, 1))

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the red values ``[B, T, H, W]``."""
        return {"video": ((clips * self.gain)[:, 0] * 127.5 + 127.5).round().long()}

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return grey clips."""
        return (tokens["video"][:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1, -1)


def encoder() -> ClipEncoder:
    """Return the live encoder of `Levels`."""
    return ClipEncoder(Levels(), TokenSpec((Stream("video", "index", GRID, vocab_sizes=(256,)),)))


def test_a_clip_keeps_its_axes_on_the_way_in_and_out() -> None:
    """Frames, rows, columns and channels land where the network's layout says they do."""
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 6, 3), dtype=np.uint8)
    live = encoder()
    inputs = live.preprocess(clips)
    assert inputs.shape == (2, 3, 5, 4, 6)
    assert torch.equal(inputs[1, 2, 3], torch.from_numpy(HALF.table()[clips[1, 3, ..., 2], 0]))
    tokens = live.encode(inputs)
    assert tokens["video"].dtype == np.uint8
    assert np.array_equal(tokens["video"], clips[..., 0])
    assert np.array_equal(live.decode(tokens), np.repeat(clips[..., :1], 3, axis=-1))


def test_an_image_is_a_clip_of_one_frame() -> None:
    """Stacked images get a time axis of one, and come back as clips."""
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    live = encoder()
    tokens = live.encode(live.preprocess(images))
    assert np.array_equal(tokens["video"], images[:, None, ..., 0])
    assert live.decode(tokens).shape == (2, 1, 4, 6, 3)


def test_a_network_must_be_a_torch_module() -> None:
    """Something that only looks like a network is refused."""
    with pytest.raises(TypeError, match="not a torch module"):
        ClipEncoder(object(), encoder().spec)  # type: ignore[arg-type]  # that is the test


@given(first=st.integers(1, 20), step=st.integers(0, 9), slots=st.integers(1, 40))
def test_slots_and_frames_are_inverse(first: int, step: int, slots: int) -> None:
    """As many slots come from the frames that these slots stand for."""
    rule = Frames(first, step)
    slots = slots if step else 1
    assert rule.slots(rule.frames(slots)) == slots


@given(first=st.integers(1, 20), step=st.integers(0, 9), frames=st.integers(0, 200))
def test_other_lengths_are_refused(first: int, step: int, frames: int) -> None:
    """A length is taken if and only if it is first + k * step."""
    rule = Frames(first, step)
    allowed = frames in (range(first, 201, step) if step else [first])
    if allowed:
        assert rule.frames(rule.slots(frames)) == frames
    else:
        with pytest.raises(ValueError, match="takes clips of"):
            rule.slots(frames)


@pytest.mark.parametrize(("first", "step"), [(0, 4), (1, -1)])
def test_a_rule_of_no_frames_is_refused(first: int, step: int) -> None:
    """A rule has at least one frame and steps forward."""
    with pytest.raises(ValueError, match="frames must be"):
        Frames(first, step)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (None, (None, None, None)),
        ((None, None, None), (None, None, None)),
        ((17, 64, 96), (3, 8, 6)),
        ((None, 64, 96), (None, 8, 6)),
        ((9, 64, None), (2, 8, None)),
        ((64, 96), (1, 8, 6)),
        ((None, 96), (1, None, 6)),
    ],
)
def test_the_grid_of_a_shape(
    shape: tuple[int | None, ...] | None, sizes: tuple[int | None, ...]
) -> None:
    """Clips, images, and what varies in either, become the axes t, h and w."""
    axes = clip_grid(shape, CAUSAL_8, factors=(8, 16), kind="test")
    assert [axis.name for axis in axes] == ["t", "h", "w"]
    assert tuple(axis.size for axis in axes) == sizes


@pytest.mark.parametrize(
    ("shape", "says", "path"),
    [
        ((16, 64, 64), r"1 \+ 4k frames \(1, 5, 9, \.\.\.\), got 16", "view.frames"),
        ((17, 60, 64), "multiple of 8 .* got 60 x 64", "view.size"),
        ((60, 64), "multiple of 8", "view.size"),
        ((17, 64, 0), "got 64 x 0", "view.size"),
        ((17, 64, 96), "takes square views, got 64 x 96", "view.size"),
    ],
)
def test_a_shape_that_does_not_fit_is_the_jobs_fault(
    shape: tuple[int, ...], says: str, path: str
) -> None:
    """The error names the key at fault and what would do."""
    with pytest.raises(JobError, match=says) as caught:
        clip_grid(shape, CAUSAL_4, factors=(8, 8), kind="test", square=True)
    assert caught.value.path == path


def test_a_rule_of_one_length_says_so() -> None:
    """A tokenizer of fixed length names that length."""
    with pytest.raises(JobError, match="exactly 16 frames, got 17"):
        clip_grid((17, 64, 64), Frames(16, 0), factors=(8, 8), kind="test")
