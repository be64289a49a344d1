"""What generators on 1D tokenizers are fed: a test for each row of the papers' table."""

from __future__ import annotations

import numpy as np
import pytest
from tests.operators.feed.shaping.consumers import (
    ROWS,
    floats,
    ids,
    ragged,
    shaped,
    stated,
    stored,
)

from tokenmill.feed.shaping import (
    Begin,
    DropCondition,
    Flatten,
    KeepPrefix,
    MaskTokens,
    OneView,
    Pad,
    Piece,
    RandomOrder,
    Reorder,
    ShuffleSet,
    Signs,
    Standardise,
    Take,
    ToLatent,
)
from tokenmill.feed.shaping.masking import IGNORE
from tokenmill.feed.shaping.pyramid import block_causal_mask, level_index
from tokenmill_schemas.tokens import Axis, Latent, Stream

LABELS = np.arange(ROWS) * 7


@pytest.mark.parametrize("n", [128, 64, 32])
def test_titok_is_a_bag_for_masked_or_autoregressive_models(n: int) -> None:
    """TiTok S/B/L: 128, 64, 32 of 4096; masked as MaskGIT, or a bag in a random order."""
    batch = stored(ids("image", n, vocab=4096, order="unordered"))
    masked = shaped(batch, MaskTokens("image", 4096))
    shown = stated(masked, "image", "int64", ROWS, n)
    targets = stated(masked, "image.targets", "int64", ROWS, n)
    mask = stated(masked, "image.mask", "bool", ROWS, n)
    np.testing.assert_array_equal(np.where(mask, targets, shown), batch["image"])
    assert shown[mask].tolist() == [4096] * int(mask.sum())
    bag = shaped(batch, RandomOrder("image"))
    order = stated(bag, "image.order", "int64", ROWS, n)
    found = stated(bag, "image", "uint16", ROWS, n)
    np.testing.assert_array_equal(np.take_along_axis(batch["image"], order, 1), found)


@pytest.mark.parametrize("n", [64, 128, 256])
def test_titok_of_8k_with_a_class_first(n: int) -> None:
    """TiTok vq8k: 64 to 256 of 8192; the class takes the ids behind them, 1001 with the null."""
    batch = stored(ids("image", n, vocab=8192)) | {"label": LABELS}
    drop, begin = DropCondition((("label", 1000),), 0.5), Begin("image", "label", 8192)
    found = shaped(batch, drop, begin)
    row = stated(found, "image", "int64", ROWS, n + 1)
    dropped = stated(found, "label.dropped", "bool", ROWS)
    np.testing.assert_array_equal(row[:, 0] - 8192, np.where(dropped, 1000, LABELS))
    np.testing.assert_array_equal(row[:, 1:], batch["image"])


@pytest.mark.parametrize("n", [32, 64, 128])
def test_titok_kl_is_sampled_from_mean_and_log_variance(n: int) -> None:
    """TiTok/TA KL: n x 16 floats, another sample at another step, none without log-variance."""
    stream = floats("image", n, channels=32, latent=Latent("mean_logvar"))
    batch = stored(stream)
    one, two = (
        stated(shaped(batch, ToLatent.of(stream), step=s), "image", "float32", ROWS, n, 16)
        for s in (0, 1)
    )
    assert (one != two).all()
    mean = shaped(batch, ToLatent.of(stream, "mean"))["image"]
    np.testing.assert_array_equal(mean, batch["image"][..., :16])  # type: ignore[call-overload]


def test_ta_titok_has_a_caption_for_maskgen() -> None:
    """TA-TiTok VQ: 128 of 8192, masked by MaskGen; the caption goes along and is dropped."""
    texts = np.array([f"picture {i}" for i in range(ROWS)], object)
    batch = stored(ids("image", 128, vocab=8192)) | {"caption": texts}
    found = shaped(batch, DropCondition((("caption", ""),), 0.1), MaskTokens("image", 8192))
    caption = stated(found, "caption", "object", ROWS)
    dropped = stated(found, "caption.dropped", "bool", ROWS)
    assert [text == "" for text in caption] == dropped.tolist()
    stated(found, "image", "int64", ROWS, 128)
    stated(found, "image.targets", "int64", ROWS, 128)


def test_one_d_piece_drops_its_tail() -> None:
    """One-D-Piece: 1 to 256 of 256, one length for a batch, any prefix decodes."""
    stream = ids("image", 256, vocab=4096, order="prefix", min_prefix=1)
    batch = stored(stream)
    lengths = set()
    for step in range(30):
        found = shaped(batch, KeepPrefix.of(stream, "uniform"), step=step)
        kept = int(stated(found, "image.length", "int64", ROWS)[0])
        cut = stated(found, "image", "uint16", ROWS, kept)
        np.testing.assert_array_equal(cut, batch["image"][:, :kept])  # type: ignore[call-overload]
        lengths.add(kept)
    assert len(lengths) > 20


def test_flextok_nests_by_powers_of_two() -> None:
    """FlexTok: 256 of FSQ 64000 (uint16), each sample its own of 1, 2, 4 ... 256."""
    stream = ids("image", 256, vocab=64000, order="prefix", min_prefix=1)
    batch = stored(stream, rows=64)
    found = shaped(batch, KeepPrefix.of(stream, "pow2", per_sample=True))
    lengths = stated(found, "image.length", "int64", 64)
    mask = stated(found, "image.mask", "bool", 64, 256)
    stated(found, "image", "uint16", 64, 256)
    assert set(lengths.tolist()) <= {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert len(set(lengths.tolist())) > 4
    np.testing.assert_array_equal(mask.sum(axis=1), lengths)


@pytest.mark.parametrize("views", [10, 20])
def test_gigatok_draws_one_of_its_crops(views: int) -> None:
    """GigaTok: 10 or 20 views of 256 ids of 16384, one of them a step, with a class first."""
    batch = stored(ids("image", views, 256, vocab=16384)) | {"label": LABELS}
    found = shaped(batch, OneView(("image",)), Begin("image", "label", 16384))
    view = stated(found, "image.view", "int64", ROWS)
    row = stated(found, "image", "int64", ROWS, 257)
    for i in range(ROWS):
        np.testing.assert_array_equal(row[i, 1:], batch["image"][i][view[i]])


def test_retok_keeps_at_least_32() -> None:
    """ReTok: 256 of the 480 it encodes; prefixes from 32."""
    stream = ids("image", 480, vocab=16384)
    kept = ids("image", 256, vocab=16384, order="prefix", min_prefix=32)
    for step in range(20):
        found = shaped(
            stored(stream),
            Take("image", "image", 0, 256),
            KeepPrefix.of(kept, "uniform"),
            step=step,
        )
        n = int(stated(found, "image.length", "int64", ROWS)[0])
        assert 32 <= n <= 256
        stated(found, "image", "uint16", ROWS, n)


def test_hita_puts_the_holistic_first() -> None:
    """Hita: 128 holistic of 16384, then 441 raster of 16384: 569 ids of 32768."""
    streams = ids("holistic", 128, vocab=16384), ids("image", 21, 21, vocab=16384)
    flatten = Flatten.of(streams)
    batch = stored(*streams)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 569)
    assert flatten.vocab_size == 32768
    np.testing.assert_array_equal(row[:, :128], batch["holistic"])
    np.testing.assert_array_equal(row[:, 128:] - 16384, np.reshape(batch["image"], (ROWS, 441)))


def test_restok_predicts_levels_in_nine_steps() -> None:
    """ResTok: 128 of 8192 in levels 1, 1, 2 .. 64; four singly, then five levels at once."""
    levels = tuple((n,) for n in (1, 1, 2, 4, 8, 16, 32, 64))
    batch = stored(ids("image", 128, vocab=8192, levels=levels))
    stated(batch, "image", "uint16", ROWS, 128)
    assert np.bincount(level_index(levels)).tolist() == [1, 1, 2, 4, 8, 16, 32, 64]
    steps = tuple((n,) for n in (1, 1, 1, 1, 4, 8, 16, 32, 64))
    mask = block_causal_mask(steps)
    assert mask.shape == (128, 128)
    assert len(np.unique(mask, axis=0)) == 9
    whole = (1, 2, 4, 8, 16, 32, 64, 128)
    cut = shaped(batch, KeepPrefix("image", "among", 1, 128, lengths=whole))
    assert int(stated(cut, "image.length", "int64", ROWS)[0]) in whole


def test_d_ar_decodes_groups_of_32() -> None:
    """D-AR: 256 of 16384; a prefix of whole groups is a step of its diffusion."""
    stream = ids("image", 256, vocab=16384, order="prefix", min_prefix=32)
    seen = set()
    for step in range(40):
        keep = KeepPrefix.of(stream, "uniform", multiple_of=32)
        found = shaped(stored(stream), keep, step=step)
        n = int(stated(found, "image.length", "int64", ROWS)[0])
        stated(found, "image", "uint16", ROWS, n)
        seen.add(n)
    assert seen == {32, 64, 96, 128, 160, 192, 224, 256}


@pytest.mark.parametrize("n", [512, 1024])
def test_selftok_is_read_backwards(n: int) -> None:
    """Selftok: 512 or 1024 of 32768, last token first; its stages keep their sizes, reversed."""
    batch = stored(ids("image", n, vocab=32768, order="reversed"))
    found = shaped(batch, Reorder("image", "reversed"))
    row = stated(found, "image", "uint16", ROWS, n)
    order = stated(found, "image.order", "int64", ROWS, n)
    np.testing.assert_array_equal(row, np.asarray(batch["image"])[:, ::-1])
    assert order[0, 0] == n - 1
    stages = tuple((size,) for size in (192, 184, 72, 48, 16))
    assert np.bincount(level_index(stages)[order[0, -512:]]).tolist() == [192, 184, 72, 48, 16]


def test_seed_stands_among_words() -> None:
    """SEED-2: 32 of 8192 behind a text vocabulary of 32000, between its begin and end."""
    stream = ids("image", 32, vocab=8192)
    part = Piece.of(stream, begin="boi", end="eoi")
    flatten = Flatten((part,), text_vocab=32000, specials=("boi", "eoi"))
    batch = stored(stream)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 34)
    assert flatten.vocab_size == 32000 + 2 + 8192
    assert row[:, 0].tolist() == [32000] * ROWS
    assert row[:, -1].tolist() == [32001] * ROWS
    np.testing.assert_array_equal(row[:, 1:-1] - 32002, batch["image"])


def test_slottok_is_flattened_slot_by_slot() -> None:
    """SlotTok: 32 slots of 4 residual ids, 8192 each, with offsets: 128 of 32768."""
    stream = ids("image", 32, 4, vocab=8192, depth=True)
    flatten = Flatten.of((stream,))
    batch = stored(stream)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 128)
    assert flatten.vocab_size == 4 * 8192
    np.testing.assert_array_equal(
        row.reshape(ROWS, 32, 4) // 8192, np.tile(range(4), (ROWS, 32, 1))
    )
    np.testing.assert_array_equal(
        flatten.unflatten(row, {"image": (32, 4)})["image"], batch["image"]
    )


def test_lavit_is_ragged_from_32002() -> None:
    """LaVIT: up to 256 of 16384, from id 32002 on; padded with a mask."""
    batch = {"image": ragged(16384, 61, 256, 17, 90)}
    flatten = Flatten((Piece("image", (16384,)),), into="image", text_vocab=32002)
    found = shaped(batch, flatten, Pad("image", 256, pad=0))
    row = stated(found, "image", "int64", ROWS, 256)
    mask = stated(found, "image.mask", "bool", ROWS, 256)
    assert mask.sum(axis=1).tolist() == [61, 256, 17, 90]
    assert row[mask].min() >= 32002
    assert row[mask].max() < flatten.vocab_size == 32002 + 16384
    assert not row[~mask].any()


def test_karl_reads_its_error_bound_first() -> None:
    """KARL: up to 256 of 4096, behind the one of 19 bounds that they were encoded for."""
    batch = {"image": ragged(4096, 31, 256, 5, 100), "epsilon_bin": np.array([0, 18, 3, 7])}
    found = shaped(batch, Begin("image", "epsilon_bin", 4096), Pad("image", 257, pad=4096 + 19))
    row = stated(found, "image", "int64", ROWS, 257)
    assert (row[:, 0] - 4096).tolist() == [0, 18, 3, 7]
    assert stated(found, "image.length", "int64", ROWS).tolist() == [32, 257, 6, 101]
    assert row.max() == 4096 + 19


@pytest.mark.parametrize("k", range(1, 9))
def test_alit_has_a_set_for_each_length(k: int) -> None:
    """ALIT: 32 k of 4096, a stream for each k since they do not nest; a set, so masked."""
    stream = ids(f"image_{32 * k}", 32 * k, vocab=4096, order="unordered")
    assert stream.min_prefix == 0
    found = shaped(stored(stream), ShuffleSet((stream.name,)), MaskTokens(stream.name, 4096))
    stated(found, stream.name, "int64", ROWS, 32 * k)
    stated(found, f"{stream.name}.targets", "int64", ROWS, 32 * k)


def test_instella_has_a_target_for_each_bit() -> None:
    """Instella BAE: 128 x 64 bits; read as plus and minus one, the bits are the targets."""
    stream = Stream("image", "bits", (Axis("n", 128),), width_bits=64)
    batch = stored(stream)
    target = stated(batch, "image", "uint8", ROWS, 128, 64)
    read = stated(shaped(batch, Signs("image")), "image", "float32", ROWS, 128, 64)
    np.testing.assert_array_equal(read, target.astype(int) * 2 - 1)


def test_himtok_keeps_a_prefix() -> None:
    """HiMTok: 32 of 1024, coarse to fine; a prefix for each mask."""
    stream = ids("mask", 32, vocab=1024, order="coarse_to_fine", min_prefix=1)
    found = shaped(stored(stream), KeepPrefix.of(stream, "uniform", per_sample=True, pad=1023))
    row = stated(found, "mask", "uint16", ROWS, 32)
    kept = stated(found, "mask.mask", "bool", ROWS, 32)
    assert (row[~kept] == 1023).all()


def test_semanticist_reads_its_first_slots() -> None:
    """Semanticist: 256 x 16 floats, of which autoregression reads 32, standardised, views drawn."""
    stream = floats("image", 20, 256, channels=16)
    batch = stored(stream)
    keep = KeepPrefix("image", "fixed", 1, 32)
    standard = Standardise("image", np.full(16, 0.5), np.full(16, 2.0))
    found = shaped(batch, OneView(("image",)), keep, standard)
    row = stated(found, "image", "float32", ROWS, 32, 16)
    view = stated(found, "image.view", "int64", ROWS)
    wanted = np.asarray(batch["image"])[np.arange(ROWS), view, :32]
    np.testing.assert_allclose(row, (wanted - 0.5) / 2, rtol=1e-6)
    nested = shaped(batch, OneView(("image",)), KeepPrefix("image", "uniform", 1, 256))
    kept = int(stated(nested, "image.length", "int64", ROWS)[0])
    stated(nested, "image", "float32", ROWS, kept, 16)


@pytest.mark.parametrize(("name", "n", "channels"), [("flowtok", 77, 16), ("textok", 32, 8)])
def test_flowtok_and_textok_are_continuous(name: str, n: int, channels: int) -> None:
    """FlowTok and TexTok: latents with a caption beside, dropped for guidance."""
    stream = floats("image", n, channels=channels, dtype="bfloat16", latent=Latent("mean"))
    texts = np.array([name] * ROWS, object)
    batch = stored(stream) | {"caption": texts}
    found = shaped(batch, ToLatent.of(stream), DropCondition((("caption", ""),), 0.5))
    stated(batch, "image", "uint16", ROWS, n, channels)
    values = stated(found, "image", "float32", ROWS, n, channels)
    np.testing.assert_array_equal(values.view(np.uint32) >> 16, batch["image"])
    assert set(stated(found, "caption", "object", ROWS)) <= {"", name}


def test_layton_is_a_plain_sequence() -> None:
    """Layton: 256 ids for 1024 pixels; every second masked step predicts what is masked."""
    batch = stored(ids("image", 256, vocab=16384))
    found = shaped(batch, MaskTokens("image", 16384))
    mask = stated(found, "image.mask", "bool", ROWS, 256)
    targets = stated(found, "image.targets", "int64", ROWS, 256)
    np.testing.assert_array_equal(targets != IGNORE, mask)
