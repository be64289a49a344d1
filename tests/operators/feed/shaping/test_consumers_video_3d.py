"""What generators on video and 3D tokenizers are fed: a test for each row of the papers' table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.operators.feed.shaping.consumers import ROWS, floats, ids, ragged, shaped, stated, stored

from tokenmill.feed.columns import Batch
from tokenmill.feed.shaping import (
    BlockIndex,
    Flatten,
    JoinPoints,
    MaskTokens,
    Pad,
    Piece,
    Positions,
    ScaleCoords,
    SeparateBlocks,
    ShuffleSet,
    Signs,
    SortSet,
    SplitIds,
    Standardise,
    TeacherInput,
    ToLatent,
)
from tokenmill_schemas.tokens import Axis, Latent, Stream

RNG = np.random.default_rng(0)


def raster_of(batch: Batch, name: str) -> Any:
    """A stream's ids in raster order, t slowest."""
    return np.reshape(batch[name], (len(batch[name]), -1))


def test_omnitokenizer_is_flattened_by_time_rows_columns() -> None:
    """OmniTokenizer: 5 x 32 x 32 of 8192 in (t, h, w) order, with positions of three axes."""
    batch = stored(ids("video", 5, 32, 32, vocab=8192), rows=2)
    found = shaped(batch, Positions("video"))
    row = stated(found, "video", "uint16", 2, 5120)
    where = stated(found, "video.positions", "int64", 2, 5120, 3)
    assert where[0, 1].tolist() == [0, 0, 1]
    assert where[0, 1024].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(row, raster_of(batch, "video"))


def test_cosmos_dv_fits_sixteen_bits_and_begins_with_an_image() -> None:
    """Cosmos DV4x8x8: 5 x 64 x 64 of FSQ 64000 as uint16; the first frame is an image's."""
    batch = stored(ids("video", 5, 64, 64, vocab=64000), rows=2)
    stated(batch, "video", "uint16", 2, 5, 64, 64)
    found = shaped(batch, Positions("video"))
    stated(found, "video", "uint16", 2, 20480)
    image = np.asarray(found["video.positions"])[..., 0] == 0
    assert image.sum(axis=1).tolist() == [4096, 4096]


def test_cosmos_windows_are_flagged() -> None:
    """Cosmos DV8x16x16: 5 x 40 x 64 a window of 33 frames; where one begins is said."""
    batch = stored(ids("video", 10, 40, 64, vocab=64000), rows=2)
    found = shaped(batch, Positions("video", window=5))
    stated(found, "video", "uint16", 2, 25600)
    first = stated(found, "video.first", "bool", 2, 25600)
    starts = np.flatnonzero(np.diff(first[0].astype(int)) == 1) + 1
    assert starts.tolist() == [12800]
    assert first[0].sum() == 2 * 40 * 64


def test_open_magvit2_video_splits_nine_and_nine_bits() -> None:
    """Open-MAGVIT2 video: 5 x 16 x 16 of 2^18 (uint32) as two ids of 512."""
    batch = stored(ids("video", 5, 16, 16, vocab=2**18))
    stated(batch, "video", "uint32", ROWS, 5, 16, 16)
    parts = stated(shaped(batch, SplitIds("video", (9, 9))), "video", "int64", ROWS, 5, 16, 16, 2)
    assert parts.max() < 512
    np.testing.assert_array_equal(parts @ [1, 512], batch["video"])


def test_emu3_video_states_its_size() -> None:
    """Emu3: groups of 4 frames of any size, of 32768; sizes, rows and frames are marked."""
    grids: Batch = {"video": [np.zeros((t, 4, 6), np.uint16) for t in (1, 2, 3, 1)]}
    part = Piece("video", (32768,), row_end="eol", frame_end="eof", sizes=128)
    flatten = Flatten((part,), specials=("boi", "eol", "eof", "eoi"), begin="boi", end="eoi")
    found = shaped(grids, flatten, Pad("tokens", 96, pad=flatten.vocab_size))
    stated(found, "tokens", "int64", ROWS, 96)
    lengths = [2 + 3 + t * (4 * 7 + 1) for t in (1, 2, 3, 1)]
    assert stated(found, "tokens.length", "int64", ROWS).tolist() == lengths
    assert (np.asarray(found["tokens"])[:, 1:4] - 4 + 1).tolist() == [
        [t, 4, 6] for t in (1, 2, 3, 1)
    ]
    assert flatten.vocab_size == 4 + 128 + 32768


def test_atoken_has_coordinates_and_eight_ids() -> None:
    """AToken-D: sparse latents at (t, h, w, z), eight ids of 4096 each, padded together."""
    sizes = (5, 9, 2, 7)
    coords = ragged(64, *sizes, tail=(4,))
    batch: Batch = {"coords": coords, "asset": ragged(4096, *sizes, tail=(8,))}
    found = shaped(batch, ScaleCoords("coords", 64), Pad("coords", 10), Pad("asset", 10))
    where = stated(found, "coords", "float32", ROWS, 10, 4)
    stated(found, "asset", "int64", ROWS, 10, 8)
    mask = stated(found, "asset.mask", "bool", ROWS, 10)
    np.testing.assert_array_equal(mask, found["coords.mask"])
    assert np.abs(where).max() < 1
    flatten = Flatten((Piece("asset", (4096,), 8),))
    rows = shaped(batch, flatten)["tokens"]
    assert [len(row) for row in rows] == [8 * n for n in sizes]
    assert flatten.vocab_size == 32768


def test_larp_has_a_fixed_length() -> None:
    """LARP: 1024 of 8192 in the order of its queries, behind a class."""
    stream = ids("video", 1024, vocab=8192, order="sequence")
    flatten = Flatten.of((stream,), specials=("bos",), begin="bos")
    batch = stored(stream)
    row = stated(shaped(batch, flatten), "tokens", "int64", ROWS, 1025)
    np.testing.assert_array_equal(row[:, 1:] - 1, batch["video"])


@pytest.mark.parametrize(("levels", "kind"), [(4, "uint16"), (5, "uint16"), (6, "uint32")])
def test_vidtok_ids_of_large_codebooks_are_wide(levels: int, kind: str) -> None:
    """VidTok 488: 5 x 32 x 32 of 4096, 32768 or 262144, the last in uint32."""
    batch = stored(ids("video", 5, 32, 32, vocab=8**levels), rows=2)
    stated(batch, "video", kind, 2, 5, 32, 32)
    mask_id = 8**levels
    found = shaped(batch, Positions("video"), MaskTokens("video", mask_id))
    row = stated(found, "video", "int64", 2, 5120)
    assert row.max() == mask_id


def test_elastictok_has_lengths_of_blocks() -> None:
    """ElasticTok: 256 to 4096 of 64000 a block of 4 frames; block numbers beside the ids."""
    lengths = [[256, 300], [4096], [256, 256, 512], [1000]]
    batch: Batch = {
        "video": ragged(64000, *(sum(one) for one in lengths)),
        "blocks": [np.array(n) for n in lengths],
    }
    found = shaped(
        batch, BlockIndex("video", "blocks"), Pad("video", 4096), Pad("video.block", 4096)
    )
    stated(found, "video", "int64", ROWS, 4096)
    block = stated(found, "video.block", "int64", ROWS, 4096)
    assert np.bincount(block[2, :1024]).tolist() == [256, 256, 512]


def test_adaptok_separates_blocks() -> None:
    """AdapTok: about 256 of 8192 a block, at most 512, a separator after each."""
    lengths = [[200, 312], [512, 100, 256], [1, 2], [256]]
    batch: Batch = {
        "video": ragged(8192, *(sum(one) for one in lengths)),
        "blocks": [np.array(n) for n in lengths],
    }
    found = shaped(batch, SeparateBlocks("video", "blocks", 8192), Pad("video", 1024, pad=8193))
    row = stated(found, "video", "int64", ROWS, 1024)
    assert (row == 8192).sum(axis=1).tolist() == [2, 3, 2, 1]
    assert row[0, 200] == row[0, 513] == 8192


VIDEO_VAES = {"wan": (5, 30, 52, 16), "hunyuan": (5, 30, 52, 16), "ltx": (3, 8, 8, 128)}


@pytest.mark.parametrize("name", VIDEO_VAES)
def test_video_latents_use_their_statistics(name: str) -> None:
    """Wan, HunyuanVideo, LTX, CV-VAE: per channel (value - mean) / std, or one scale."""
    t, h, w, c = VIDEO_VAES[name]
    scale = (0.476986,) if name == "hunyuan" else tuple(1 / (1 + i) for i in range(c))
    shift = (0.0,) if name == "hunyuan" else tuple(i / c for i in range(c))
    latent = Latent("mean", scale, shift)
    stream = floats("video", t, h, w, channels=c, dtype="bfloat16", latent=latent)
    batch = stored(stream, rows=2)
    values = stated(shaped(batch, ToLatent.of(stream)), "video", "float32", 2, t, h, w, c)
    raw = (np.asarray(batch["video"]).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(
        values, (raw - np.array(shift)) * np.array(scale), rtol=1e-4, atol=1e-5
    )


def test_shapellm_ids_are_words() -> None:
    """ShapeLLM-Omni: 1024 of 8192 behind a text vocabulary, between begin and end."""
    stream = ids("shape", 1024, vocab=8192)
    part = Piece.of(stream, begin="mesh-start", end="mesh-end")
    flatten = Flatten((part,), text_vocab=152064, specials=("mesh-start", "mesh-end"))
    row = stated(shaped(stored(stream), flatten), "tokens", "int64", ROWS, 1026)
    assert flatten.vocab_size == 152064 + 2 + 8192
    assert row[0, [0, -1]].tolist() == [152064, 152065]


def test_trellis_has_dense_and_sparse_latents() -> None:
    """TRELLIS: 16^3 x 8, and N x 8 at uint8 coordinates, normalised, sorted and joined."""
    dense = floats("structure", 16, 16, 16, channels=8)
    stated(shaped(stored(dense), ToLatent.of(dense)), "structure", "float32", ROWS, 16, 16, 16, 8)
    sizes = (30, 12, 45, 7)
    coords = [RNG.integers(0, 64, (n, 3)).astype(np.uint8) for n in sizes]
    batch: Batch = {
        "coords": coords,
        "slat": [RNG.standard_normal((n, 8)).astype(np.float16) for n in sizes],
    }
    standard = Standardise("slat", np.full(8, 0.1), np.full(8, 2.0))
    found = shaped(
        batch,
        SortSet("coords", ("slat",)),
        standard,
        ScaleCoords("coords", 64),
        JoinPoints("coords", "slat", "points"),
        Pad("points", 48),
    )
    points = stated(found, "points", "float32", ROWS, 48, 11)
    mask = stated(found, "points.mask", "bool", ROWS, 48)
    assert mask.sum(axis=1).tolist() == list(sizes)
    assert (np.diff(points[0, :30, 0]) >= 0).all()


@pytest.mark.parametrize("n", [512, 1024])
def test_cube_is_a_sequence_of_queries(n: int) -> None:
    """Cube: 512 or 1024 of 16384 in the order of its queries, between begin and end."""
    stream = ids("shape", n, vocab=16384)
    flatten = Flatten.of((stream,), specials=("bos", "eos", "pad"), begin="bos", end="eos")
    row = stated(shaped(stored(stream), flatten), "tokens", "int64", ROWS, n + 2)
    assert flatten.vocab_size == 16384 + 3
    assert row[:, 1:-1].min() >= 3


@pytest.mark.parametrize("keep", [256, 512, 2048])
def test_vecsets_have_no_order_and_any_size(keep: int) -> None:
    """TripoSG and its kind: 2048 x 64 in a random order, and fewer of them."""
    stream = floats("shape", 2048, channels=64, dtype="float16", order="unordered")
    batch = stored(stream, rows=2)
    found = shaped(batch, ShuffleSet(("shape",), keep=keep), ToLatent.of(stream))
    shown = stated(found, "shape", "float32", 2, keep, 64)
    order = stated(found, "shape.order", "int64", 2, keep)
    assert len(np.unique(order[0])) == keep
    np.testing.assert_array_equal(shown[0], np.asarray(batch["shape"])[0][order[0]])


def test_meshxl_is_cut_between_faces() -> None:
    """MeshXL: nine ids of 128 a face, begin 128, end 129, pad 130; at most what fits."""
    batch: Batch = {"mesh": ragged(128, 9 * 3, 9 * 12, 9, 9 * 8)}
    found = shaped(batch, Pad("mesh", 80, pad=130, begin=128, end=129, unit=9))
    row = stated(found, "mesh", "int64", ROWS, 80)
    lengths = stated(found, "mesh.length", "int64", ROWS)
    assert lengths.tolist() == [29, 1 + 72, 11, 74]
    assert stated(found, "mesh.cut", "bool", ROWS).tolist() == [False, True, False, False]
    assert row[0, 28] == row[2, 10] == row[3, 73] == 129
    assert 129 not in row[1]
    assert (row[:, 0] == 128).all()


STRIPS = {
    "amt": (129, ("bos", "eos", "pad"), 132, 128),
    "bpt": (5120, ("eos",), 5121, 5119),
    "deepmesh": (64 + 512 + 4096 + 64, ("eos",), 4737, 0),
}


@pytest.mark.parametrize("name", STRIPS)
def test_strips_restart_and_are_cut_there(name: str) -> None:
    """AMT / BPT / DeepMesh: ids behind the language model's own; cut before a restart."""
    vocab, specials, size, restart = STRIPS[name]
    flatten = Flatten((Piece("mesh", (vocab,)),), into="mesh", specials=specials, end="eos")
    assert flatten.vocab_size == size
    row = np.concatenate(
        [np.arange(9) + 1, [restart], np.arange(12) + 1, [restart], np.arange(6) + 1]
    )
    batch: Batch = {"mesh": [row.astype(np.uint16), np.arange(1, 7, dtype=np.uint16)]}
    cut = Pad("mesh", 25, pad=0, restart=restart + len(specials))
    found = shaped(batch, flatten, cut)
    shown = stated(found, "mesh", "int64", 2, 25)
    assert stated(found, "mesh.length", "int64", 2).tolist() == [22, 7]
    np.testing.assert_array_equal(shown[0, :22] - len(specials), row[:22])
    assert shown[1, 6] == flatten.special_ids["eos"]


def test_edgerunner_walks_have_operations_and_coordinates() -> None:
    """EdgeRunner: L, R, BOM and 512 bins behind pad, bos and eos: 518; cut before a BOM."""
    flatten = Flatten(
        (Piece("mesh", (3 + 512,)),),
        into="mesh",
        specials=("pad", "bos", "eos"),
        begin="bos",
        end="eos",
    )
    assert flatten.vocab_size == 518
    bom = 2
    row = np.array([bom, *range(3, 12), 0, 5, 6, 7, bom, *range(3, 12)], np.uint16)
    found = shaped({"mesh": [row]}, flatten, Pad("mesh", 20, restart=bom + 3))
    shown = stated(found, "mesh", "int64", 1, 20)
    assert stated(found, "mesh.length", "int64", 1).tolist() == [15]
    assert shown[0, :2].tolist() == [1, bom + 3]


def test_treemeshgpt_has_two_aligned_streams() -> None:
    """TreeMeshGPT: edges of six and next vertices of three coordinates, padded to one length."""
    sizes = (11, 5, 20, 8)
    batch: Batch = {
        "edge": ragged(129, *sizes, tail=(6,)),
        "next": ragged(130, *sizes, tail=(3,), seed=1),
    }
    found = shaped(batch, Pad("edge", 16, pad=128), Pad("next", 16, pad=129))
    stated(found, "edge", "int64", ROWS, 16, 6)
    stated(found, "next", "int64", ROWS, 16, 3)
    np.testing.assert_array_equal(found["edge.mask"], found["next.mask"])
    assert stated(found, "next.cut", "bool", ROWS).tolist() == [False, False, True, False]


def test_meshgpt_has_six_ids_a_face() -> None:
    """meshgpt: faces x three vertices x two residual ids of 16384, flattened and cut by faces."""
    batch: Batch = {"mesh": [a.reshape(-1, 3, 2) for a in ragged(16384, 6 * 4, 6 * 9, 6, 6 * 2)]}
    flatten = Flatten(
        (Piece("mesh", (16384,), 2, shared=True),), into="mesh", specials=("eos",), end="eos"
    )
    found = shaped(batch, flatten, Pad("mesh", 40, pad=-1, unit=6))
    row = stated(found, "mesh", "int64", ROWS, 40)
    assert stated(found, "mesh.length", "int64", ROWS).tolist() == [25, 36, 7, 13]
    assert flatten.vocab_size == 16385
    np.testing.assert_array_equal(row[0, :24] - 1, np.reshape(batch["mesh"][0], -1))


def test_sar3d_has_three_planes_of_scales() -> None:
    """SAR3D: three planes of 680 of 16384, planes with offsets or shared, and VAR's input."""
    levels = tuple((n, n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    stream = Stream("shape", "index", (Axis("depth", 3), Axis("n", 680)), (16384,), levels=levels)
    batch = stored(stream, rows=2)
    codes = RNG.standard_normal((16384, 8), np.float32)
    found = shaped(batch, TeacherInput.of(stream, {"shape": codes}))
    stated(found, "shape", "uint16", 2, 3, 680)
    stated(found, "shape.teacher", "float32", 2, 3, 679, 8)
    flatten = Flatten((Piece("shape", (16384,)),))
    row = stated(shaped(batch, flatten), "tokens", "int64", 2, 2040)
    np.testing.assert_array_equal(row, raster_of(batch, "shape"))


def test_octgpt_has_depths_and_bit_planes() -> None:
    """OctGPT: split bits of depths 3 to 5, then 32 bits a node of depth 6, by depth."""
    counts = [[512, 40, 90], [512, 16, 8]]
    batch: Batch = {
        "split": [RNG.integers(0, 2, (sum(n), 1)).astype(np.uint8) for n in counts],
        "depths": [np.array(n) for n in counts],
        "code": [RNG.integers(0, 2, (n, 32)).astype(np.uint8) for n in (120, 44)],
    }
    found = shaped(
        batch,
        BlockIndex("split", "depths"),
        Pad("split.block", 700),
        Signs("code"),
        Pad("code", 128),
    )
    depth = stated(found, "split.block", "int64", 2, 700)
    assert np.bincount(depth[0, :642]).tolist() == [512, 40, 90]
    code = stated(found, "code", "float32", 2, 128, 32)
    mask = stated(found, "code.mask", "bool", 2, 128)
    assert set(np.unique(code[mask]).tolist()) == {-1.0, 1.0}


def test_point_bert_needs_its_centres() -> None:
    """Point-BERT: 64 of 8192 with 64 centres, shuffled together, masked for pre-training."""
    tokens = ids("shape", 64, vocab=8192, order="unordered")
    centres = floats("centers", 64, channels=3)
    batch = stored(tokens, centres)
    found = shaped(batch, ShuffleSet(("shape", "centers")), MaskTokens("shape", 8192))
    stated(found, "shape", "int64", ROWS, 64)
    where = stated(found, "centers", "float32", ROWS, 64, 3)
    targets = stated(found, "shape.targets", "int64", ROWS, 64)
    order = stated(found, "shape.order", "int64", ROWS, 64)
    mask = stated(found, "shape.mask", "bool", ROWS, 64)
    for i in range(ROWS):
        np.testing.assert_array_equal(where[i], batch["centers"][i][order[i]])
        np.testing.assert_array_equal(targets[i][mask[i]], batch["shape"][i][order[i]][mask[i]])


def test_autobrep_is_cut_at_a_level() -> None:
    """AutoBrep: at most 3000 of 1000 codes, 1024 places, references and 21 specials."""
    vocab, level = 1000 + 1024 + 200 + 21, 2244
    rows = [np.ones(n, np.uint16) for n in (2000, 3500)]
    for row, at in ((rows[0], (500,)), (rows[1], (800, 2900, 3200))):
        row[list(at)] = level
    found = shaped({"brep": rows}, Pad("brep", 3000, pad=0, restart=level))
    row = stated(found, "brep", "int64", 2, 3000)
    assert stated(found, "brep.length", "int64", 2).tolist() == [2000, 2900]
    assert row.max() == level < vocab
