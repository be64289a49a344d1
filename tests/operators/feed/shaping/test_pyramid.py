"""Pyramids: resampling as torch's, levels, VAR's input, Infinity's flips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import Phi, SelfCorrection, TeacherInput
from tokenmill.feed.shaping.correction import bit_codes, bit_teacher_input, self_correct
from tokenmill.feed.shaping.pyramid import (
    accumulate,
    block_causal_mask,
    join_levels,
    level_index,
    split_levels,
    teacher_input,
)
from tokenmill.feed.shaping.resample import Rule, matrix, resize
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream

TORCH: dict[Rule, dict[str, Any]] = {
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "linear": {"mode": "bilinear", "align_corners": False},
    "area": {"mode": "area"},
    "nearest": {"mode": "nearest"},
}
LEVELS = ((1, 1), (2, 2), (3, 3), (4, 6))
SIZE = 1 + 4 + 9 + 24


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.sampled_from(sorted(TORCH)),
)
def test_resizing_is_torchs(source: tuple[int, int], target: tuple[int, int], rule: Rule) -> None:
    """Up and down, of any sizes."""
    maps = np.random.default_rng(0).standard_normal((2, *source, 3)).astype(np.float32)
    given_maps = torch.from_numpy(maps).permute(0, 3, 1, 2)
    wanted = F.interpolate(given_maps, size=target, **TORCH[rule]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(resize(maps, rule, target), wanted.numpy(), rtol=0, atol=2e-5)


def test_three_axes_resize_as_torchs() -> None:
    """Infinity's pyramids have a time axis."""
    maps = np.random.default_rng(0).standard_normal((1, 2, 4, 3, 5)).astype(np.float32)
    given_maps = torch.from_numpy(maps).permute(0, 4, 1, 2, 3)
    wanted = F.interpolate(given_maps, size=(3, 8, 7), mode="trilinear").permute(0, 2, 3, 4, 1)
    np.testing.assert_allclose(resize(maps, "linear", (3, 8, 7)), wanted.numpy(), rtol=0, atol=1e-5)


def test_weights_sum_to_one() -> None:
    """A constant stays constant under every rule."""
    for rule in TORCH:
        np.testing.assert_allclose(matrix(rule, 5, 9).sum(axis=1), 1, atol=1e-6)
    with pytest.raises(JobError, match="cannot resize 3 to 0"):
        matrix("area", 0, 3)


def test_levels_split_and_join() -> None:
    """With grids, payloads and leading axes."""
    ids = np.arange(2 * SIZE).reshape(2, SIZE)
    pieces = split_levels(ids, LEVELS)
    assert [piece.shape for piece in pieces] == [(2, *grid) for grid in LEVELS]
    np.testing.assert_array_equal(join_levels(pieces), ids)
    bits = np.zeros((2, SIZE, 5))
    assert [piece.shape[1:] for piece in split_levels(bits, LEVELS, tail=1)] == [
        (*grid, 5) for grid in LEVELS
    ]
    with pytest.raises(JobError, match="38 positions"):
        split_levels(ids[:, 1:], LEVELS)


def test_a_level_sees_itself_and_all_coarser() -> None:
    """The mask of next-scale prediction."""
    of, mask = level_index(LEVELS), block_causal_mask(LEVELS)
    assert np.bincount(of).tolist() == [1, 4, 9, 24]
    for i, j in ((0, 1), (1, 4), (4, 1), (5, 0), (5, 14), (37, 14)):
        assert mask[i, j] == (of[j] <= of[i])
    assert mask.sum() == 1 * 1 + 4 * 5 + 9 * 14 + 24 * 38


def torch_teacher(ids: np.ndarray[Any, Any], book: Any, phi: Phi) -> Any:
    """VAR's input, written with torch's own layers."""
    codes = [
        torch.from_numpy(book[level]).permute(0, 3, 1, 2) for level in split_levels(ids, LEVELS)
    ]
    total = torch.zeros_like(codes[-1])
    parts = []
    for k, code in enumerate(codes[:-1]):
        large = F.interpolate(code, size=LEVELS[-1], mode="bicubic")
        i = phi.index(k, len(codes))
        weight, bias = torch.from_numpy(phi.weights[i]), torch.from_numpy(phi.biases[i])
        total = total + large * 0.5 + F.conv2d(large, weight, bias, padding=1) * 0.5
        small = F.interpolate(total, size=LEVELS[k + 1], mode="area")
        parts.append(small.flatten(2).transpose(1, 2))
    return torch.cat(parts, 1).numpy()


def test_the_teacher_input_is_that_of_torchs_layers() -> None:
    """On grids that are not square too."""
    rng = np.random.default_rng(0)
    book = rng.standard_normal((30, 5)).astype(np.float32)
    arrays = {f"phi.{i}.weight": rng.standard_normal((5, 5, 3, 3), np.float32) for i in range(4)}
    arrays |= {f"phi.{i}.bias": rng.standard_normal(5, np.float32) for i in range(4)}
    ids = rng.integers(0, 30, (3, SIZE)).astype(np.uint16)
    stream = Stream("x", "index", (Axis("n", SIZE),), (30,), levels=LEVELS)
    shaped = TeacherInput.of(stream, {"x": book, **arrays})
    given_input = np.asarray(shaped({"x": ids}, Draw(0, 0, 0, 3))["x.teacher"])
    assert (given_input.shape, given_input.dtype) == ((3, SIZE - 1, 5), np.dtype(np.float32))
    assert shaped.phi is not None
    np.testing.assert_allclose(given_input, torch_teacher(ids, book, shaped.phi), atol=2e-5)


def test_phi_is_that_of_the_nearest_tick() -> None:
    """Of VAR's ten levels two lie between ticks; four ticks lie by thirds, others by halves."""

    def used(k: int, levels: int) -> list[int]:
        phi = Phi(np.zeros((k, 2, 2, 3, 3), np.float32), np.zeros((k, 2), np.float32))
        return [phi.index(level, levels) for level in range(levels)]

    assert used(4, 10) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert used(4, 7) == [0, 0, 1, 2, 2, 3, 3]
    assert used(10, 10) == list(range(10))
    assert used(1, 5) == [0] * 5


def test_planes_are_pyramids_of_their_own() -> None:
    """SAR3D's three planes: each plane's input is what it would be alone."""
    rng = np.random.default_rng(0)
    book = rng.standard_normal((30, 4)).astype(np.float32)
    ids = rng.integers(0, 30, (2, 3, SIZE))
    shaped = TeacherInput("x", LEVELS, book)
    whole = np.asarray(shaped({"x": ids}, Draw(0, 0, 0, 2))["x.teacher"])
    alone = np.asarray(shaped({"x": ids[:, 1]}, Draw(0, 0, 0, 2))["x.teacher"])
    assert whole.shape == (2, 3, SIZE - 1, 4)
    np.testing.assert_allclose(whole[:, 1], alone, atol=1e-6)


def test_a_later_level_changes_nothing_before_it() -> None:
    """Teacher forcing must not leak: level k's input is of levels below k alone."""
    rng = np.random.default_rng(0)
    book = rng.standard_normal((30, 4)).astype(np.float32)
    ids = rng.integers(0, 30, (1, SIZE))
    other = ids.copy()
    other[:, 5:14] = (ids[:, 5:14] + 1) % 30
    one, two = (
        teacher_input([book[level] for level in split_levels(each, LEVELS)])
        for each in (ids, other)
    )
    np.testing.assert_array_equal(one[:, :13], two[:, :13])
    assert (one[:, 13:] != two[:, 13:]).any()


def test_misfits_are_refused() -> None:
    """Ids, names, shapes."""
    book = np.zeros((4, 2), np.float32)
    stream = Stream("x", "index", (Axis("n", SIZE),), (4,), levels=LEVELS)
    with pytest.raises(JobError, match="no 'x'"):
        TeacherInput.of(stream, {"y": book})
    with pytest.raises(JobError, match="needs two of them"):
        TeacherInput("x", LEVELS[:1], book)
    with pytest.raises(JobError, match=r"no phi\.0\.bias"):
        Phi.of({"phi.0.weight": np.zeros((2, 2, 3, 3))})
    with pytest.raises(JobError, match="Phi's weights"):
        Phi(np.zeros((1, 2, 2, 1, 1), np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(JobError, match="id 9, the codebook 4 codes"):
        TeacherInput("x", LEVELS, book)({"x": np.full((1, SIZE), 9)}, Draw(0, 0, 0, 1))


def test_without_flips_labels_are_the_tokenizers() -> None:
    """Residuals of the signs before: labels equal what is read, and sums come nearer."""
    features = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)
    none = [np.zeros((2, int(np.prod(grid)), 8), np.bool_) for grid in LEVELS]
    labels, read = self_correct(features, LEVELS, none)
    np.testing.assert_array_equal(labels, read)
    np.testing.assert_array_equal(
        labels[:, 0], (features.mean(axis=(1, 2), dtype=np.float64) > 0).astype(int)
    )
    codes = [bit_codes(level) for level in split_levels(read, LEVELS, tail=1)]
    errors = [float(np.square(features - s).mean()) for s in accumulate(codes, up="linear")]
    assert errors == sorted(errors, reverse=True)


def test_labels_after_a_flip_mend_it() -> None:
    """A flipped first level changes what finer levels are asked for, and not its own label."""
    features = np.random.default_rng(0).standard_normal((1, 4, 6, 8)).astype(np.float32) * 0.1
    none = [np.zeros((1, int(np.prod(grid)), 8), np.bool_) for grid in LEVELS]
    flipped = [np.ones((1, 1, 8), np.bool_), *none[1:]]
    plain, _ = self_correct(features, LEVELS, none)
    labels, read = self_correct(features, LEVELS, flipped)
    np.testing.assert_array_equal(labels[:, :1], plain[:, :1])
    np.testing.assert_array_equal(read[:, :1], 1 - plain[:, :1])
    # The wrong code is larger than all that the features have: every next bit is its opposite.
    np.testing.assert_array_equal(labels[:, 1:5], np.repeat(1 - read[:, :1], 4, axis=1))


def test_flips_are_of_raw_features_or_of_stored_bits() -> None:
    """Shapes and types; of stored bits labels stay as they are."""
    features = np.random.default_rng(0).standard_normal((16, 4, 6, 8)).astype(np.float32)
    shaped = SelfCorrection("x", LEVELS, into="z", strength=0.3)
    batch = shaped({"x": features}, Draw(0, 0, 0, 16))
    labels, read, teacher = (np.asarray(batch[f"z.{k}"]) for k in ("labels", "read", "teacher"))
    assert labels.shape == read.shape == (16, SIZE, 8)
    assert labels.dtype == read.dtype == np.uint8
    assert (teacher.shape, teacher.dtype) == ((16, SIZE - 1, 8), np.dtype(np.float32))
    np.testing.assert_array_equal(teacher, bit_teacher_input(read, LEVELS))
    stored = SelfCorrection("z.labels", LEVELS)(batch, Draw(0, 0, 0, 16))
    np.testing.assert_array_equal(stored["z.labels.labels"], labels)
    share = float((np.asarray(stored["z.labels.read"]) != labels).mean())
    assert 0.1 < share < 0.2, "half of the strength, on average"
    with pytest.raises(JobError, match=r"positions \(3, 6\), which are those of 0 of the"):
        shaped({"x": features[:, :3]}, Draw(0, 0, 0, 16))


def test_no_strength_flips_nothing() -> None:
    """And each level has a share of its own below the strength."""
    bits = np.zeros((64, SIZE, 8), np.uint8)
    calm = SelfCorrection("x", LEVELS, strength=0.0)({"x": bits}, Draw(0, 0, 0, 64))
    assert not np.asarray(calm["x.read"]).any()
    wild = SelfCorrection("x", LEVELS, strength=1.0)({"x": bits}, Draw(0, 0, 0, 64))
    shares = np.asarray(wild["x.read"])[:, 14:].mean(axis=(1, 2))
    assert shares.min() < 0.1
    assert shares.max() > 0.9
    with pytest.raises(JobError, match=r"strength must be in \[0, 1\]"):
        SelfCorrection("x", LEVELS, strength=1.5)


def test_a_step_of_another_aspect_ratio_has_its_own_levels() -> None:
    """Infinity's schedules: told from raw features' grids; bits of equal length are not told."""
    wide, tall = ((1, 1), (2, 4), (4, 8)), ((1, 1), (4, 2), (8, 4))
    shaped = SelfCorrection("x", wide, others=(tall,))
    for levels in (wide, tall):
        features = np.random.default_rng(0).standard_normal((2, *levels[-1], 6), np.float32)
        batch = shaped({"x": features}, Draw(0, 0, 0, 2))
        alone = SelfCorrection("x", levels)({"x": features}, Draw(0, 0, 0, 2))
        for name in ("x.labels", "x.read", "x.teacher"):
            np.testing.assert_array_equal(batch[name], alone[name])
    with pytest.raises(JobError, match="those of 2 of the pyramids"):
        shaped({"x": np.zeros((2, 41, 6), np.uint8)}, Draw(0, 0, 0, 2))
    with pytest.raises(JobError, match="needs levels"):
        SelfCorrection("x", wide, others=((),))
