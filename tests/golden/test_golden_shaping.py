"""Token shaping against what the official repositories compute from the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import MergeWindows, QuantiseChannels, Signs, SplitIds, TeacherInput
from tokenmill.feed.shaping.bits import bits_to_ids, group_bits, ids_to_bits
from tokenmill.feed.shaping.correction import bit_codes, bit_teacher_input
from tokenmill.feed.shaping.latents import gaussian_levels
from tokenmill.feed.shaping.pyramid import accumulate, split_levels
from tokenmill.testing.golden import weight
from tokenmill_schemas.tokens import Axis, Stream

GOLDEN = Path(__file__).parent
DRAW = Draw(0, 0, 0, 1)
Floats = npt.NDArray[np.float32]


def load(case: str) -> dict[str, Any]:
    """A case, its ids of all levels in one row."""
    given: dict[str, Any] = json.loads((GOLDEN / f"{case}.json").read_text())
    return given


def check(found: Floats, recorded: dict[str, Any], *, within: float = 1e-6) -> None:
    """Compare an array with recorded samples of the official one."""
    assert list(found.shape) == recorded["shape"]
    samples = found.reshape(-1)[recorded["flat_indices"]]
    np.testing.assert_allclose(samples, recorded["values"], rtol=0, atol=within)
    assert found.mean() == pytest.approx(recorded["mean"], abs=within)


def test_the_teacher_input_of_var() -> None:
    """From ids, codebook and Phi alone: the official ``idxBl_to_var_input``."""
    case = load("var/ch160_128px_7levels")
    gain = case["gain"]
    book = {"image": weight("quantize.embedding.weight", (4096, 32), gain=gain)}
    for i in range(4):
        key = f"quantize.quant_resi.qresi_ls.{i}"
        book[f"phi.{i}.weight"] = weight(f"{key}.weight", (32, 32, 3, 3), gain=gain)
        book[f"phi.{i}.bias"] = weight(f"{key}.bias", (32,), gain=gain)
    levels = tuple(tuple(grid) for grid in case["levels"])
    ids = np.concatenate(case["ids"])[None].astype(np.uint16)
    stream = Stream("image", "index", (Axis("n", 155),), (4096,), levels=levels)
    shaped = TeacherInput.of(stream, book)
    batch = shaped({"image": ids}, DRAW)
    given = batch["image.teacher"]
    assert isinstance(given, np.ndarray)
    assert given.dtype == np.float32
    check(given, case["teacher_input_idxBl_to_var_input"])
    codes = [book["image"][level] for level in split_levels(ids, levels)]
    *_, last = accumulate(codes, phi=shaped.phi)
    check(last.transpose(0, 3, 1, 2), case["f_hat_last"])


def test_the_sum_of_levels_of_tokenflow() -> None:
    """Two codebooks on their spheres, side by side, under one id; bicubic, without Phi."""
    case = load("tokenflow/vitamin_256px_9levels")
    names = (("quantize.embedding_vqkd.weight", 32), ("quantize.embedding_vqgan.weight", 8))
    books = [weight(name, (32768, width), gain=case["gain"]) for name, width in names]
    unit = [book / np.linalg.norm(book, axis=1, keepdims=True) for book in books]
    levels = tuple(tuple(grid) for grid in case["levels"])
    codes = np.concatenate(unit, axis=1)
    *_, last = accumulate([codes[level] for level in split_levels(np.array(case["ids"]), levels)])
    check(last.transpose(0, 3, 1, 2), case["quantised_sum"])


def test_sum_and_input_of_infinity() -> None:
    """From the official bits, without an error: all is exact in binary fractions."""
    case = load("infinity/d16_256px_7levels")
    levels = tuple(tuple(grid[1:]) for grid in case["levels"])
    bits = ids_to_bits(np.concatenate(case["ids"])[None], 16)
    codes = [bit_codes(level) for level in split_levels(bits, levels, tail=1)]
    *_, last = accumulate(codes, up="linear")
    check(last.transpose(0, 3, 1, 2), case["quantised_sum"], within=1e-8)
    given = bit_teacher_input(bits, levels)
    assert given.shape == (1, sum(h * w for h, w in levels[1:]), 16)
    finest = given[:, -256:].reshape(1, 1, 16, 16, 16).transpose(0, 4, 1, 2, 3)
    check(finest, case["var_input_last"], within=1e-8)


def test_the_levels_of_tokenbridge() -> None:
    """Values, ids of the recorded latents, and values again."""
    case = load("tokenbridge/kl16_64levels_96x128")
    np.testing.assert_allclose(
        gaussian_levels(64), case["reconstruction_values"], rtol=0, atol=1e-5
    )
    shaped = QuantiseChannels("image")
    ids = np.array(case["ids"])
    check(shaped.dequantise(ids), case["dequantised"], within=1e-5)
    recorded = case["latent_before_quantiser"]
    channel, y, x = np.unravel_index(recorded["flat_indices"], recorded["shape"][1:])
    chosen = shaped.quantise(np.array(recorded["values"], np.float32))
    np.testing.assert_array_equal(chosen, ids[0, y * recorded["shape"][3] + x, channel])


def test_the_split_of_open_magvit2() -> None:
    """18 bits as 6 and 12, least significant first."""
    case = load("open_magvit2/f16_18bit_128x176")
    parts = SplitIds("image", (6, 12))({"image": np.array([case["ids"]], np.uint32)}, DRAW)["image"]
    assert isinstance(parts, np.ndarray)
    np.testing.assert_array_equal(parts[0, :, 0], case["factorized_6_12"]["pre"])
    np.testing.assert_array_equal(parts[0, :, 1], case["factorized_6_12"]["post"])


def test_the_groups_of_wetok() -> None:
    """32 bits of a position, eight an id, are its official group ids."""
    case = load("wetok/f16_c32_112x144")
    ids = np.array(case["ids"]).reshape(1, -1, 4)
    bits = ids_to_bits(ids, 8).reshape(1, -1, 32)
    np.testing.assert_array_equal(group_bits(bits, 8), ids)


def test_the_patch_order_of_bitdance() -> None:
    """Positions as ``(h w p1 p2)``, each a word of 32 bits."""
    case = load("bitdance/d16c32_96x160")
    bits = ids_to_bits(np.array(case["ids"])[:, 0], 32).reshape(1, *case["grid_hw"], 32)
    shaped = MergeWindows("image", case["patch_order"]["ps"], tail=1, flat=True)
    found = shaped({"image": bits}, DRAW)["image"]
    assert isinstance(found, np.ndarray)
    assert found.shape == (1, 60, 32)
    wanted = np.array(case["patch_order"]["ids"])[:, 0]
    np.testing.assert_array_equal(bits_to_ids(found)[0, : len(wanted)], wanted)


def test_the_signs_of_bsq_vit() -> None:
    """Bits of a big-endian index are the signs of the official latent."""
    case = load("bsqvit/b18_64px_p8_w192")
    shaped = Signs("image", 18, unit_norm=True, big_endian=True)
    found = shaped({"image": np.array([case["ids"]], np.uint32)}, DRAW)["image"]
    assert isinstance(found, np.ndarray)
    assert found.shape == (1, 64, 18)
    recorded = case["latent_before_quantiser"]
    signs = found.transpose(0, 2, 1).reshape(-1)[recorded["flat_indices"]] * np.sqrt(18)
    np.testing.assert_allclose(signs, np.sign(recorded["values"]), rtol=1e-6)
