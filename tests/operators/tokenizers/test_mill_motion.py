"""Block motion: what is searched is found, and what is said in digits is heard again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.networks.mill_config import MillVideoConfig
from tokenmill.tokenizers.networks.mill_motion import BLOCK, REACH, BlockMotion, shifted
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import build

GROUP = 4
MOTION = BlockMotion(8, GROUP)


def texture(height: int = 128, width: int = 160, *, seed: int = 0) -> Tensor:
    """A smooth picture ``[1, 3, H, W]`` in which no place is like another."""
    rng = torch.Generator().manual_seed(seed)
    fine = torch.rand((1, 3, height // 8, width // 8), generator=rng)
    coarse = torch.rand((1, 3, height // 16, width // 16), generator=rng)
    size = (height, width)
    both = [torch.nn.functional.interpolate(x, size, mode="bicubic") for x in (fine, coarse)]
    return (both[0] + both[1] - 1).clamp(-1, 1)


def panned(frame: Tensor, down: float, across: float) -> Tensor:
    """Frames ``[1, 3, 4, H, W]`` of a camera that goes so many pixels in four of them."""
    full = torch.zeros((1, 2, *frame.shape[2:])) + torch.tensor([down, across])[:, None, None]
    return torch.stack([shifted(frame, full * (k + 1) / GROUP) for k in range(GROUP)], dim=2)


def decibels(made: Tensor, wanted: Tensor) -> float:
    """PSNR of values in [-1, 1]."""
    return float(-10 * torch.log10((made - wanted).square().mean() / 4))


@given(st.sampled_from([4, 5, 7, 8]), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_pairs_are_heard_as_they_were_said(base: int, height: int, width: int, seed: int) -> None:
    """Four digits hold a pair, each less than the base; all combinations of digits are pairs."""
    motion = BlockMotion(base, GROUP)
    rng = np.random.default_rng(seed)
    numbers = torch.from_numpy(rng.integers(0, base**2, (2, 2, height, width)))
    digits = motion.digits(numbers)
    assert digits.shape == (2, 2 * height, 2 * width)
    assert 0 <= int(digits.min()) <= int(digits.max()) < base
    assert torch.equal(motion.numbers(digits), numbers)


@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 5, 7, 8]), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_whatever_is_said_can_be_drawn(seed: int, base: int, group: int) -> None:
    """Ids that no encoder gave have a prediction too: finite and in range."""
    motion = BlockMotion(base, group)
    rng = np.random.default_rng(seed)
    numbers = torch.from_numpy(rng.integers(0, base**2, (1, 2, 3, 2)))
    predicted = motion.predicted(texture(48, 32), numbers)
    assert predicted.shape == (1, 4, group, 48, 32)
    assert bool(predicted.isfinite().all())
    assert float(predicted[:, :3].abs().max()) <= 1 + 1e-5
    assert set(predicted[:, 3].flatten().tolist()) <= {0.0, 1.0}
    first = motion.new_from(numbers)
    seen = predicted[0, 3, :, ::BLOCK, ::BLOCK].sum(0)
    assert torch.equal(seen.long(), first[0])


def test_displacements_reach_from_end_to_end_and_nothing_is_one_of_them() -> None:
    """Finer about zero than at the ends, and ascending."""
    for grid in (MOTION.down, MOTION.across):
        steps = grid.diff()
        assert float(grid[0]) == pytest.approx(-REACH)
        assert 0.0 in grid.tolist()
        assert float(steps.min()) > 0
        assert float(steps[0]) > 4 * float(steps[len(steps) // 2])


@pytest.mark.parametrize("pan", [(0, 0), (3, -5), (-17, 9), (30, 30), (0.9, 0.45), (-40, 0)])
def test_a_moving_camera_is_followed(pan: tuple[float, float]) -> None:
    """Away from the edges little is left over, however fast it goes; nothing there is new."""
    frame = texture()
    group = panned(frame, *pan)
    numbers, predicted = MOTION.search(frame, group)
    inner = (slice(None), slice(3), slice(None), slice(48, 80), slice(48, 112))
    assert decibels(predicted[inner], group[inner]) > 30
    assert bool((MOTION.new_from(numbers)[:, 3:5, 3:7] == GROUP).all())


def test_the_search_says_what_its_prediction_is() -> None:
    """The other end draws the same, bit for bit, from the pairs."""
    frame, other = texture(seed=1), texture(seed=2)
    group = torch.cat([panned(frame, 5, 2)[:, :, :2], panned(other, 5, 2)[:, :, 2:]], dim=2)
    numbers, predicted = MOTION.search(frame, group)
    assert bool((MOTION.new_from(numbers) < GROUP).any())
    assert torch.equal(MOTION.predicted(frame, numbers), predicted)


def test_what_was_not_there_before_is_new_and_has_its_colour() -> None:
    """From the frame on in which it comes, in its own blocks only; before that nothing changes."""
    frame = texture()
    group = frame[:, :, None].repeat(1, 1, GROUP, 1, 1)
    red = torch.tensor([0.75, -0.25, 0.0])[:, None, None]
    group[0, :, 2:, 32:64, 64:96] = red[:, None]
    numbers, predicted = MOTION.search(frame, group)
    first = MOTION.new_from(numbers)[0]
    fresh = torch.full_like(first, GROUP)
    fresh[2:4, 4:6] = 2
    assert torch.equal(first, fresh)
    assert decibels(predicted[:, :3], group) > 30
    assert torch.allclose(predicted[0, :3, :2], group[0, :, :2], atol=1e-4)


def test_of_equals_nothing_moves() -> None:
    """A grey wall has no motion, though any would do."""
    frame = torch.full((1, 3, 64, 64), 0.25)
    numbers, predicted = MOTION.search(frame, frame[:, :, None].repeat(1, 1, GROUP, 1, 1))
    assert MOTION.down[numbers[:, 0]].abs().max() == 0
    assert MOTION.across[numbers[:, 1]].abs().max() == 0
    assert torch.allclose(predicted[:, :3], torch.tensor(0.25))


@pytest.mark.parametrize("first", range(GROUP))
def test_a_new_scene_is_told_in_the_first_pair(first: int) -> None:
    """And is no new block nor motion; the pair that it takes the place of is guessed."""
    numbers = torch.randint(0, MOTION.rows, (2, 2, 3, 4), generator=torch.Generator())
    assert MOTION.scene_from(numbers).tolist() == [GROUP, GROUP]
    told = MOTION.told(numbers, torch.tensor([first, first]))
    assert MOTION.scene_from(told).tolist() == [first, first]
    assert MOTION.scene_from(told.roll(1, -1)).tolist() == [GROUP, GROUP]
    digits = MOTION.digits(MOTION.untold(told))
    assert set(digits[:, :2, :2].flatten().tolist()) == {4}
    assert torch.equal(digits[:, 2:], MOTION.digits(numbers)[:, 2:])


@pytest.fixture(name="begun", scope="module")
def _begun(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A live tokenizer that knows pictures and has not learned what is new."""
    tokenizer: Any = open_tokenizer("mill_video", checkpoint="random:0")
    network = tokenizer.network()
    tokenizer.weights.load_into(network)
    tokenizer.start["picture"].load_into(network.picture)
    file = tmp_path_factory.mktemp("begun") / "begun.safetensors"
    save_file(network.state_dict(), file)
    return open_tokenizer("mill_video", checkpoint=str(file)).load()


def film(*scenes: tuple[Tensor, int]) -> Any:
    """Still pictures, so many frames each: ``uint8[1, T, H, W, 3]``."""
    frames = [((x[0] + 1) * 127.5).round().byte().movedim(0, -1).numpy() for x, _ in scenes]
    counts = [count for _, count in scenes]
    return np.concatenate([np.stack([f] * n) for f, n in zip(frames, counts, strict=True)])[None]


def test_after_a_cut_the_ids_are_those_of_a_picture(begun: Any) -> None:
    """With weights that have not learned what is new, a scene is closer."""
    motion = begun.network.motion
    before, after = (texture(64, 64, seed=seed) for seed in (0, 3))
    clip = film((before, 3), (after, 6))
    ids = begun.encode(begun.preprocess(clip))["video"]
    numbers = motion.numbers(torch.from_numpy(ids[:, 1].astype(np.int64)) % 8)
    alone = begun.encode(begun.preprocess(film((after, 1))))["video"][:, 0]
    assert int(motion.scene_from(numbers)) == 2
    assert np.array_equal(ids[:, 1, 2:], alone[:, 2:])
    back = begun.decode({"video": ids})
    assert np.array_equal(back[:, 1], back[:, 0])
    assert np.array_equal(back[:, 3], back[:, 4])
    assert not np.array_equal(back[:, 2], back[:, 3])


def test_both_ends_know_the_same_frame_with_and_without_new_scenes(begun: Any) -> None:
    """Clips beside others have the ids that they have alone and as a stream."""
    one, other = texture(64, 80, seed=1), texture(64, 80, seed=2)
    films = [film((one, 13)), film((one, 3), (other, 10)), film((other, 6), (one, 7))]
    clips = begun.preprocess(np.concatenate(films))
    network = begun.network
    past, parts, known = network.begin(3), [], []
    with torch.inference_mode():
        for start, stop in ((0, 1), (1, 5), (5, 9), (9, 13)):
            parts.append(network.part(clips[:, :, start:stop], past)["video"])
            known.append(past.frame.clone())
        ids = torch.cat(parts, dim=1)
        drawn = network.clips({"video": ids}).clamp(-1, 1)
    told = [network.motion.scene_from(network.motion.numbers(p[:, 0] % 8)) for p in parts[1:]]
    assert told[0].tolist() == [4, 2, 4]
    assert told[1].tolist()[2] == 1
    for frame, last in zip(known, (0, 4, 8, 12), strict=True):
        assert torch.allclose(frame, drawn[:, :, last], atol=1e-4)
    for number, alone in enumerate(films):
        assert np.array_equal(begun.encode(begun.preprocess(alone))["video"][0], ids[number])
        stream = begun.open_stream()
        stream.push(alone[0])
        assert np.array_equal(stream.finish()["video"][0], ids[number])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"group": 7}, "1 to 6 frames a group"),
        ({"picture": {"levels": (3, 8)}}, "a first channel of 4 to 16 levels"),
        ({"picture": {"levels": (8,)}}, "a first channel of 4 to 16 levels, more"),
        ({"picture": {"fold": 2}}, "an id per 8x8 pixels"),
    ],
)
def test_networks_that_have_no_room_for_motion_are_refused(
    config: dict[str, object], said: str
) -> None:
    """Too few levels, too many frames, or ids of other sizes."""
    with pytest.raises(JobError, match=said):
        build(MillVideoConfig, config, path="tokenizer.config")
