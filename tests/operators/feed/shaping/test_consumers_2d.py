"""What generators on 2D tokenizers are fed: a test for each row of the papers' table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.operators.feed.shaping.consumers import ROWS, floats, ids, shaped, stated, stored

from tokenmill.feed.columns import Batch
from tokenmill.feed.shaping import (
    MAR,
    Begin,
    DropCondition,
    Flatten,
    GroupBits,
    MapIds,
    MaskTokens,
    MergeWindows,
    OneView,
    Pad,
    Perturb,
    Piece,
    Positions,
    QuantiseChannels,
    RandomOrder,
    SelfCorrection,
    ShuffleSet,
    Signs,
    SplitIds,
    Standardise,
    Take,
    TeacherInput,
    ToLatent,
)
from tokenmill.feed.shaping.pyramid import level_sizes
from tokenmill_schemas.tokens import Axis, Latent, Stream

RNG = np.random.default_rng(0)
LABELS = np.arange(ROWS) * 7
VAR_256 = tuple((n, n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
VAR_512 = tuple((n, n) for n in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))


def book(vocab: int, width: int) -> npt.NDArray[np.float32]:
    """Codes of any values."""
    return RNG.standard_normal((vocab, width), np.float32)


@pytest.mark.parametrize(
    ("side", "vocab", "kind"), [(16, 1024, "uint16"), (32, 16384, "uint16"), (8, 256, "uint8")]
)
def test_taming_is_raster(side: int, vocab: int, kind: str) -> None:
    """Taming f16 / f8: 256 or 1024 ids in raster order behind a class."""
    batch = stored(ids("image", side, side, vocab=vocab)) | {"label": LABELS}
    stated(batch, "image", kind, ROWS, side, side)
    row = stated(shaped(batch, Begin("image", "label", vocab)), "image", "int64", ROWS, side**2 + 1)
    np.testing.assert_array_equal(row[:, 1:], np.reshape(batch["image"], (ROWS, -1)))
    assert row[:, 0].tolist() == (LABELS + vocab).tolist()


@pytest.mark.parametrize("side", [16, 24, 32])
def test_llamagen_draws_a_variant(side: int) -> None:
    """LlamaGen: 256, 576 or 1024 of 16384, one of ten crops a step; RAR's orders on top."""
    batch = stored(ids("image", 10, side, side, vocab=16384)) | {"label": LABELS}
    found = shaped(batch, OneView(("image",)), RandomOrder("image", start=10, end=20), step=5)
    row = stated(found, "image", "uint16", ROWS, side**2)
    order = stated(found, "image.order", "int64", ROWS, side**2)
    view = stated(found, "image.view", "int64", ROWS)
    for i in range(ROWS):
        np.testing.assert_array_equal(row[i], batch["image"][i][view[i]].reshape(-1)[order[i]])


def test_open_magvit2_splits_six_and_twelve_bits() -> None:
    """Open-MAGVIT2: 16 x 16 of 2^18 (uint32) become ids of 64 and of 4096."""
    batch = stored(ids("image", 16, 16, vocab=2**18))
    stated(batch, "image", "uint32", ROWS, 16, 16)
    split = SplitIds("image", (6, 12))
    parts = stated(shaped(batch, split), "image", "int64", ROWS, 16, 16, 2)
    assert split.vocab_sizes == (64, 4096)
    assert (parts.max(axis=(0, 1, 2)) < [64, 4096]).all()
    np.testing.assert_array_equal(parts[..., 0] + 64 * parts[..., 1], batch["image"])


def test_ibq_is_raster_of_a_large_vocabulary() -> None:
    """IBQ: 256 of 262144; with a text vocabulary the table has their sum."""
    stream = ids("image", 16, 16, vocab=262144)
    flatten = Flatten.of((stream,), text_vocab=151643)
    row = stated(shaped(stored(stream), flatten), "tokens", "int64", ROWS, 256)
    assert flatten.vocab_size == 151643 + 262144
    assert row.min() >= 151643


@pytest.mark.parametrize("heads", [2, 3])
def test_fqgan_predicts_a_tuple_for_each_position(heads: int) -> None:
    """FQGAN: two or three grids of 16384, interleaved by position, a head for each."""
    streams = tuple(ids(f"image_{i}", 16, 16, vocab=16384) for i in range(heads))
    flatten = Flatten.of(streams, interleave=True)
    batch = stored(*streams)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 256 * heads)
    assert flatten.vocab_size == heads * 16384
    tuples = row.reshape(ROWS, 256, heads) - np.arange(heads) * 16384
    for i, stream in enumerate(streams):
        np.testing.assert_array_equal(tuples[..., i], np.reshape(batch[stream.name], (ROWS, 256)))


@pytest.mark.parametrize(("side", "bits"), [(16, 32), (32, 32), (32, 64), (8, 32)])
def test_wetok_has_a_head_for_each_group(side: int, bits: int) -> None:
    """WeTok: bits of a position in groups of eight, an id of 256 each."""
    stream = Stream("image", "bits", (Axis("h", side), Axis("w", side)), width_bits=bits)
    batch = stored(stream)
    groups = stated(
        shaped(batch, GroupBits("image", 8)), "image", "int64", ROWS, side, side, bits // 8
    )
    assert groups.max() < 256
    np.testing.assert_array_equal(groups[..., 0] & 1, np.asarray(batch["image"])[..., 0])


@pytest.mark.parametrize(("side", "bits"), [(8, 128), (16, 32), (8, 256)])
def test_bitdance_reads_signs_in_patches(side: int, bits: int) -> None:
    """UniWeTok and BitDance: bits as plus and minus one, in (h w p1 p2) order."""
    stream = Stream("image", "bits", (Axis("h", side), Axis("w", side)), width_bits=bits)
    batch = stored(stream)
    patches = MergeWindows("image", 2, tail=1, flat=True)
    read = stated(shaped(batch, patches, Signs("image")), "image", "float32", ROWS, side**2, bits)
    np.testing.assert_array_equal(read[:, 2] > 0, np.asarray(batch["image"])[:, 1, 0] > 0)


@pytest.mark.parametrize(
    ("sides", "n"),
    [
        ((1, 2, 4, 6, 8, 10, 12, 14), 561),
        ((1, 2, 4, 6, 8, 10, 12, 14, 16), 817),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 22, 27), 2227),
    ],
)
def test_tokenflow_sums_two_codebooks(sides: tuple[int, ...], n: int) -> None:
    """TokenFlow: one id for codes of 32 and of 8 values; sums of coarser levels as input."""
    levels = tuple((side, side) for side in sides)
    stream = ids("image", n, vocab=32768, levels=levels)
    codes = np.concatenate([book(32768, 32), book(32768, 8)], axis=1)
    found = shaped(stored(stream, rows=2), TeacherInput.of(stream, {"image": codes}))
    stated(found, "image", "uint16", 2, n)
    teacher = stated(found, "image.teacher", "float32", 2, n - 1, 40)
    first = codes[np.asarray(found["image"])[:, 0]]
    np.testing.assert_allclose(teacher[:, 0], first, atol=1e-5)


@pytest.mark.parametrize(("side", "depth"), [(27, 8), (16, 4)])
def test_dualtoken_has_two_residual_branches(side: int, depth: int) -> None:
    """DualToken: semantic and pixel codes of one grid, 8 (4) deep each, for a depth transformer."""
    streams = [ids(n, side, side, depth, vocab=16384, depth=True) for n in ("semantic", "pixel")]
    parts = tuple(Piece.of(stream, shared=True) for stream in streams)
    flatten = Flatten(parts, interleave=True)
    batch = stored(*streams)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, side**2 * 2 * depth).reshape(
        ROWS, side**2, 2 * depth
    )
    assert flatten.vocab_size == 2 * 16384
    shape = (ROWS, side**2, depth)
    np.testing.assert_array_equal(row[..., :depth], np.reshape(batch["semantic"], shape))
    np.testing.assert_array_equal(row[..., depth:] - 16384, np.reshape(batch["pixel"], shape))


def test_unitok_has_eight_heads_for_each_position() -> None:
    """UniTok, MedITok: 256 x 8 of eight books of 4096; together, or eight streams of heads."""
    stream = ids("image", 16, 16, 8, vocab=(4096,) * 8, depth=True)
    batch = stored(stream)
    stated(batch, "image", "uint16", ROWS, 16, 16, 8)
    flatten = Flatten.of((stream,))
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 2048)
    assert flatten.vocab_size == 32768
    np.testing.assert_array_equal(row.reshape(ROWS, 256, 8)[0, 0] // 4096, range(8))
    back = flatten.unflatten(row, {"image": (16, 16, 8)})
    np.testing.assert_array_equal(back["image"], batch["image"])


@pytest.mark.parametrize(("semantic", "pixel"), [(18, 32), (9, 16)])
def test_dualvitok_writes_two_grids_with_their_sizes(semantic: int, pixel: int) -> None:
    """DualViTok: 324 of 32768, then 1024 of 98304 (uint32), each with size tags and row ends."""
    streams = (
        ids("semantic", semantic, semantic, vocab=32768),
        ids("pixel", pixel, pixel, vocab=98304),
    )
    parts = tuple(Piece.of(stream, sizes=64, row_end="eol") for stream in streams)
    flatten = Flatten(parts, specials=("boi", "eol", "eoi"), begin="boi", end="eoi")
    batch = stored(*streams)
    stated(batch, "pixel", "uint32", ROWS, pixel, pixel)
    n = 2 + 2 + semantic * (semantic + 1) + 2 + pixel * (pixel + 1)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, n)
    assert flatten.vocab_size == 3 + 64 + 32768 + 64 + 98304
    assert (row[0, 1:3] - 3 + 1).tolist() == [semantic, semantic]


def test_tokenbridge_quantises_what_was_sampled() -> None:
    """TokenBridge: 16 x 16 x 32 moments; sampled, times 0.2325, 64 levels, channels in order."""
    latent = Latent("mean_logvar", scale=(0.2325,))
    stream = floats("image", 16, 16, channels=32, latent=latent)
    order = (8, 1, 10, 9, 6, 12, 4, 0, 3, 11, 7, 14, 2, 15, 13, 5)
    quantise = QuantiseChannels("image", channel_order=order)
    batch = stored(stream)
    found = stated(
        shaped(batch, ToLatent.of(stream, "mean"), quantise), "image", "int64", ROWS, 16, 16, 16
    )
    assert 0 <= found.min() <= found.max() < 64
    means = np.asarray(batch["image"])[..., :16] * np.float32(0.2325)
    np.testing.assert_array_equal(found, quantise.quantise(means)[..., list(order)])
    sampled = shaped(batch, ToLatent.of(stream), quantise)
    assert (stated(sampled, "image", "int64", ROWS, 16, 16, 16) != found).any()


@pytest.mark.parametrize("vocab", [8192, 16384])
def test_digit_has_an_id_offset(vocab: int) -> None:
    """DiGIT: 256 k-means ids behind the special ones of its framework."""
    stream = ids("image", 16, 16, vocab=vocab)
    flatten = Flatten.of((stream,), specials=("bos", "pad", "eos", "unk"), begin="bos")
    row = stated(shaped(stored(stream), flatten), "tokens", "int64", ROWS, 257)
    assert flatten.vocab_size == vocab + 4
    assert row[:, 1:].min() >= 4


@pytest.mark.parametrize(("levels", "n"), [(VAR_256, 680), (VAR_512, 2240)])
def test_var_reads_the_sum_of_coarser_levels(levels: tuple[tuple[int, int], ...], n: int) -> None:
    """VAR: 680 or 2240 of 4096; float32 input of 32 channels for all levels but the first."""
    stream = ids("image", n, vocab=4096, order="coarse_to_fine", levels=levels)
    arrays: dict[str, npt.NDArray[Any]] = {"image": book(4096, 32)}
    for i in range(4):
        arrays[f"phi.{i}.weight"] = RNG.standard_normal((32, 32, 3, 3), np.float32) / 17
        arrays[f"phi.{i}.bias"] = RNG.standard_normal(32, np.float32)
    batch = stored(stream, rows=2) | {"label": LABELS[:2]}
    drop = DropCondition((("label", 1000),), 0.1)
    found = shaped(batch, drop, TeacherInput.of(stream, arrays))
    teacher = stated(found, "image.teacher", "float32", 2, n - 1, 32)
    stated(found, "image", "uint16", 2, n)
    stated(found, "label", "int64", 2)
    assert np.isfinite(teacher).all()
    assert sum(level_sizes(levels)) == n


@pytest.mark.parametrize("width", [16, 32])
def test_infinity_flips_bits_of_raw_features(width: int) -> None:
    """Infinity: 521 positions of d bits from 16 x 16 x d features; labels, flipped, and input."""
    levels = tuple((n, n) for n in (1, 2, 4, 6, 8, 12, 16))
    stream = floats("image", 16, 16, channels=width)
    found = shaped(stored(stream), SelfCorrection("image", levels))
    labels = stated(found, "image.labels", "uint8", ROWS, 521, width)
    read = stated(found, "image.read", "uint8", ROWS, 521, width)
    stated(found, "image.teacher", "float32", ROWS, 520, width)
    assert 0 < (labels != read).mean() < 0.3
    bits = Stream("image", "bits", (Axis("n", 521),), width_bits=width, levels=levels)
    flipped = shaped(stored(bits), SelfCorrection("image", levels))
    stated(flipped, "image.labels", "uint8", ROWS, 521, width)
    stated(flipped, "image.teacher", "float32", ROWS, 520, width)


def test_xq_gan_and_robusttok() -> None:
    """MSVR10P2: two product pyramids of 286; RobustTok: 256 of 4096, perturbed by near codes."""
    levels = tuple((n, n) for n in (1, 1, 2, 3, 3, 4, 5, 6, 8, 11))
    assert sum(level_sizes(levels)) == 286
    product = Stream("image", "index", (Axis("depth", 2), Axis("n", 286)), (4096,), levels=levels)
    found = shaped(stored(product), TeacherInput("image", levels, book(4096, 32)))
    stated(found, "image.teacher", "float32", ROWS, 2, 285, 32)
    grid = ids("image", 16, 16, vocab=4096)
    batch = stored(grid)
    robust = shaped(batch, Perturb.of("image", book(4096, 64), delta=100, alpha=0.5))
    changed = stated(robust, "image.perturbed", "bool", ROWS, 16, 16)
    row = stated(robust, "image", "int64", ROWS, 16, 16)
    np.testing.assert_array_equal(row != batch["image"], changed)


def test_evotok_splits_its_depth() -> None:
    """EvoTok: 256 x 16; the first four of a position draw pixels, all tell the meaning."""
    stream = ids("image", 16, 16, 16, vocab=(32768,) * 16, depth=True)
    pixel = Piece("pixel", (32768,) * 4, 4)
    flatten = Flatten((pixel,))
    batch = stored(stream)
    found = shaped(batch, Take("image", "pixel", 0, 4), flatten)
    stated(found, "image", "uint16", ROWS, 16, 16, 16)
    part = stated(found, "pixel", "uint16", ROWS, 16, 16, 4)
    np.testing.assert_array_equal(part, np.asarray(batch["image"])[..., :4])
    stated(found, "tokens", "int64", ROWS, 1024)
    assert flatten.vocab_size == 4 * 32768


@pytest.mark.parametrize("bits", [18, 36])
def test_bsq_vit_unpacks_bits(bits: int) -> None:
    """BSQ-ViT: 1024 positions of 18 or 36 bits, on the unit sphere."""
    stream = Stream("image", "bits", (Axis("h", 32), Axis("w", 32)), width_bits=bits)
    shape = (ROWS, 32, 32, bits)
    read = stated(
        shaped(stored(stream), Signs("image", unit_norm=True)), "image", "float32", *shape
    )
    np.testing.assert_allclose(np.square(read).sum(axis=-1), 1, rtol=1e-5)


def test_emu3_writes_rows_behind_a_size() -> None:
    """Emu3: 90 x 90 of 32768 at 720 pixels; "90*90" as text, an EOL a row, EOF and EOI."""
    stream = ids("image", 90, 90, vocab=32768)
    names = ("boi", "img", "eol", "eof", "eoi")
    size = (24, 15, 9, 24, 15)  # what a text model calls "90*90"
    part = Piece.of(stream, row_end="eol", headers=(((90, 90), size),))
    flatten = Flatten((part,), text_vocab=151643, specials=names, begin="boi", end="eoi")
    batch = stored(stream)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 1 + 5 + 90 * 91 + 1)
    assert row[0, 1:6].tolist() == list(size)
    assert (row[:, 6:-1].reshape(ROWS, 90, 91)[..., -1] == flatten.special_ids["eol"]).all()
    assert flatten.vocab_size == 151643 + 5 + 32768
    back = flatten.unflatten(row, {"image": (90, 90)})
    np.testing.assert_array_equal(back["image"], batch["image"])


@pytest.mark.parametrize(("side", "vocab"), [(32, 8192), (24, 16384)])
def test_chameleon_and_janus_map_ids(side: int, vocab: int) -> None:
    """Chameleon 1024 of 8192 at places of its BPE's own; Janus 576 of 16384."""
    table = RNG.permutation(65536)[:vocab]
    batch = stored(ids("image", side, side, vocab=vocab))
    mapped = MapIds("image", table)
    row = stated(shaped(batch, mapped), "image", "int64", ROWS, side, side)
    np.testing.assert_array_equal(row, table[batch["image"]])
    assert row.max() < mapped.vocab_size <= 65536


def test_glm_image_has_size_tags_and_any_grid() -> None:
    """GLM-Image: (H/16)(W/16) of 16384, another grid for each picture, padded."""
    grids: Batch = {
        "image": [np.zeros((h, w), np.uint16) for h, w in ((4, 6), (6, 4), (5, 5), (2, 8))]
    }
    flatten = Flatten((Piece("image", (16384,), sizes=128),), into="tokens")
    found = shaped(grids, flatten, Pad("tokens", 32))
    row = stated(found, "tokens", "int64", ROWS, 32)
    assert stated(found, "tokens.length", "int64", ROWS).tolist() == [26, 26, 27, 18]
    assert (row[:, :2] + 1).tolist() == [[4, 6], [6, 4], [5, 5], [2, 8]]
    placed = shaped(grids, Positions("image"))["image.positions"]
    assert [where.shape for where in placed] == [(24, 2), (24, 2), (25, 2), (16, 2)]
    assert flatten.vocab_size == 128 + 16384


KL = {
    "sd": (32, 32, 4, (0.18215,), (0.0,)),
    "flux": (32, 32, 16, (0.3611,), (0.1159,)),
    "va-vae": (16, 16, 32, tuple(1 / (1 + i) for i in range(32)), tuple(range(32))),
    "dc-ae-f32": (8, 8, 32, (0.3189,), (0.0,)),
}


@pytest.mark.parametrize("name", KL)
def test_continuous_grids_are_sampled_and_scaled(name: str) -> None:
    """SD, FLUX, VA-VAE, DC-AE: one of image and mirror image, (value - shift) * scale."""
    h, w, c, scale, shift = KL[name]
    latent = Latent("mean", scale, tuple(map(float, shift)))
    stream = floats("image", 2, h, w, channels=c, dtype="float16", latent=latent)
    batch = stored(stream) | {"label": LABELS}
    drop = DropCondition((("label", 1000),), 0.1)
    found = shaped(batch, OneView(("image",)), ToLatent.of(stream), drop)
    values = stated(found, "image", "float32", ROWS, h, w, c)
    view = stated(found, "image.view", "int64", ROWS)
    raw = np.asarray(batch["image"])[np.arange(ROWS), view].astype(np.float32)
    np.testing.assert_allclose(
        values, (raw - np.array(shift)) * np.array(scale), rtol=1e-4, atol=1e-5
    )


def test_mar_masks_latents_in_a_random_order() -> None:
    """MAR on KL-16: 256 x 16 floats, at least seven tenths masked, in the order of generation."""
    stream = floats("image", 16, 16, channels=32, latent=Latent("mean_logvar", (0.2325,)))
    mask = MaskTokens("image", None, MAR, shared=True, order=True, tail=1)
    found = shaped(stored(stream), ToLatent.of(stream), mask)
    stated(found, "image", "float32", ROWS, 256, 16)
    masked = stated(found, "image.mask", "bool", ROWS, 256)
    stated(found, "image.order", "int64", ROWS, 256)
    assert (masked.sum(axis=1) >= 0.7 * 256).all()


@pytest.mark.parametrize(("side", "c"), [(16, 768), (16, 64), (16, 32), (32, 1024)])
def test_representation_autoencoders_use_statistics(side: int, c: int) -> None:
    """RAE, RPiAE, MingTok, UniFlow: statistics of each channel and position."""
    stream = floats("image", side, side, channels=c, dtype="bfloat16")
    shape = (side, side, c)
    standard = Standardise.of_variance("image", np.full(shape, 0.25), np.full(shape, 4.0))
    batch = stored(stream, rows=2)
    found = shaped(batch, ToLatent.of(stream), standard)
    values = stated(found, "image", "float32", 2, *shape)
    raw = (np.asarray(batch["image"]).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(values, (raw - 0.25) / np.sqrt(4 + 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "c"), [(64, 21), (128, 21), (256, 37)])
def test_gpstoken_is_a_set_of_gaussians(n: int, c: int) -> None:
    """GPSToken: n Gaussians of 5 parameters and a feature, in any order, geometry first."""
    stream = floats("image", n, channels=c, order="unordered")
    batch = stored(stream)
    found = shaped(
        batch,
        ShuffleSet(("image",)),
        Take("image", "geometry", 0, 5),
        Take("image", "feature", 5, c),
    )
    stated(found, "geometry", "float32", ROWS, n, 5)
    stated(found, "feature", "float32", ROWS, n, c - 5)
    shown, order = np.asarray(found["image"]), stated(found, "image.order", "int64", ROWS, n)
    np.testing.assert_array_equal(shown[1], np.asarray(batch["image"])[1][order[1]])


def test_token_shuffle_merges_windows_of_any_grid() -> None:
    """Token-Shuffle (beside the table): 64 x 64 ids in 2 x 2 windows: 1024 positions of four."""
    batch = stored(ids("image", 64, 64, vocab=16384))
    row = stated(shaped(batch, MergeWindows("image", 2)), "image", "uint16", ROWS, 1024, 4)
    grid = np.asarray(batch["image"])
    np.testing.assert_array_equal(row[:, 33], grid[:, 2:4, 2:4].reshape(ROWS, 4))
