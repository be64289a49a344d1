import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from tokenmill.decoders.shape import ShapeDecoder
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.voxel_vq import (
    WEIGHTS,
    Codebook,
    Packed,
    Volumes,
    VoxelEncoder,
    VoxelVQ,
    from_blocks,
    load_codebook,
    nearest_codes,
    score_table,
    to_blocks,
    unpack,
)
from tokenmill.views.voxels import Voxels
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.strict import build

SAMPLES = Path(__file__).parents[3] / "pipelines/samples/shapes/objects"


@pytest.fixture(scope="module")
def encoder() -> VoxelEncoder:
    """The shipped quantizer."""
    return VoxelVQ().load()


def volume(name: str, *, resolution: int = 64, fill: Any = "surface") -> Volumes:
    """The cells of a shipped object."""
    path = SAMPLES / name
    with path.open("rb") as stream:
        shape = ShapeDecoder().decode(AssetRef(name, str(path)), stream)
    cells: Volumes = next(Voxels(resolution, fill=fill).views(shape, name)).data
    return cells


def iou(one: Volumes, other: Volumes) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())


def reference_ids(cells: Volumes, codes: Packed) -> npt.NDArray[np.int64]:
    """The definition, one block at a time: the first code that differs in the fewest cells."""
    ids = np.empty([side // 8 for side in cells.shape], np.int64)
    for x, y, z in np.ndindex(ids.shape):
        block = cells[8 * x : 8 * x + 8, 8 * y : 8 * y + 8, 8 * z : 8 * z + 8]
        packed = np.packbits(block.reshape(512), bitorder="little")
        ids[x, y, z] = unpack(codes ^ packed).sum(axis=1, dtype=np.int64).argmin()
    return ids


@pytest.mark.parametrize("name", ["torus.obj", "table.obj"])
def test_ids_are_those_of_counting_cells(encoder: VoxelEncoder, name: str) -> None:
    """Sparse products and mostly full blocks give exactly the ids of the definition."""
    cells = volume(name, resolution=48)
    ids = encoder.encode(encoder.preprocess(cells[None]))["shape"][0]
    np.testing.assert_array_equal(ids, reference_ids(cells, load_codebook(WEIGHTS).codes))
    assert len(np.unique(ids)) > 20


@pytest.mark.parametrize("density", [0.02, 0.5, 0.97])
def test_ids_of_noise_are_exact(encoder: VoxelEncoder, density: float) -> None:
    """Noise is far from all codes, and its many ties go to the lowest id."""
    cells = np.random.default_rng(0).random((16, 24, 32)) < density
    ids = encoder.encode(encoder.preprocess(cells[None]))["shape"][0]
    np.testing.assert_array_equal(ids, reference_ids(cells, load_codebook(WEIGHTS).codes))


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(64)), elements=st.integers(0, 3)),
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 300), st.just(64)), elements=st.integers(0, 3)),
)
def test_ties_go_to_the_lowest_id(codes: Packed, rows: Packed) -> None:
    """With few values there are many ties; the first nearest code wins each of them."""
    ids, away = nearest_codes(rows, score_table(codes))
    distances = unpack(rows[:, None] ^ codes[None]).sum(axis=-1, dtype=np.int64)
    np.testing.assert_array_equal(ids, distances.argmin(axis=1))
    np.testing.assert_array_equal(away, distances.min(axis=1))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 99))
def test_blocks_fold_back(count: int, sides: tuple[int, ...], seed: int) -> None:
    """Cutting into blocks and joining them is the identity."""
    cells = np.random.default_rng(seed).random((count, *(8 * side for side in sides))) < 0.5
    blocks = to_blocks(cells)
    assert blocks.shape == (count, *sides, 64)
    np.testing.assert_array_equal(from_blocks(blocks), cells)


def test_a_cell_is_the_bit_that_the_format_says() -> None:
    """Cell (x, y, z) of a block is bit z of byte 8 x + y, the lowest first."""
    cells = np.zeros((1, 16, 8, 8), bool)
    cells[0, 8 + 3, 5, 6] = True
    blocks = to_blocks(cells)
    assert np.argwhere(blocks).tolist() == [[0, 1, 0, 0, 8 * 3 + 5]]
    assert blocks.max() == 1 << 6


def test_a_volume_does_not_depend_on_its_batch(encoder: VoxelEncoder) -> None:
    """Alone, in a batch and in another order a volume gets the same ids and cells."""
    batch = np.stack([volume(name) for name in ("mug.obj", "tray.obj", "pebble.obj")])
    before = batch.copy()
    whole = encoder.encode(encoder.preprocess(batch))["shape"]
    turned = encoder.encode(encoder.preprocess(batch[::-1]))["shape"]
    np.testing.assert_array_equal(whole, turned[::-1])
    for ids, cells in zip(whole, batch, strict=True):
        alone = encoder.encode(encoder.preprocess(cells[None]))["shape"]
        np.testing.assert_array_equal(alone[0], ids)
    one = encoder.decode({"shape": whole[1:2]})
    np.testing.assert_array_equal(one[0], encoder.decode({"shape": whole})[1])
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize("side", [8, 24, 64])
def test_any_multiple_of_eight_goes_there_and_back(encoder: VoxelEncoder, side: int) -> None:
    """Sizes and types agree between cells, ids, spec and reconstruction."""
    cells = np.zeros((2, side, side, side), bool)
    cells[1] = True
    tokens = encoder.encode(encoder.preprocess(cells))
    stream = VoxelVQ().spec((side, side, side))["shape"]
    assert tokens["shape"].shape[1:] == stream.shape
    assert tokens["shape"].dtype == stream.storage_dtype
    back = encoder.decode(tokens)
    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, cells)


def test_empty_space_is_id_zero_and_every_code_is_its_own_id(encoder: VoxelEncoder) -> None:
    """So what was decoded once comes back as it is."""
    assert not encoder.encode(encoder.preprocess(np.zeros((1, 16, 16, 16), bool)))["shape"].any()
    codes = load_codebook(WEIGHTS).codes
    ids = np.arange(len(codes)).reshape(1, -1, 1, 1)
    again = encoder.encode(encoder.preprocess(encoder.decode({"shape": ids})))["shape"]
    np.testing.assert_array_equal(again, ids)


@pytest.mark.parametrize(
    ("name", "surface", "solid"),
    [("mug.obj", 0.62, 0.88), ("torus.obj", 0.62, 0.92), ("pebble.obj", 0.75, 0.94)],
)
def test_reconstructions_keep_their_quality(
    encoder: VoxelEncoder, name: str, surface: float, solid: float
) -> None:
    """IoU of shipped objects stays above what the shipped weights reach."""
    for fill, floor in (("surface", surface), ("solid", solid)):
        cells = volume(name, fill=fill)
        back = encoder.decode(encoder.encode(encoder.preprocess(cells[None])))[0]
        assert iou(back, cells) > floor


def test_other_sizes_are_refused() -> None:
    """A side that is no multiple of 8 is an error that says so."""
    with pytest.raises(JobError, match="multiples of 8, got 60 x 64 x 64"):
        VoxelVQ().spec((60, 64, 64))
    with pytest.raises(JobError, match="multiples of 8, got 64 x 64"):
        VoxelVQ().spec((64, 64))
    with pytest.raises(JobError, match="multiples of 8"):
        VoxelVQ().load().preprocess(np.zeros((1, 8, 12, 8), bool))


def test_the_description_is_cheap_and_crosses_processes() -> None:
    """It pickles small, compares equal, its identity names the weights, and torch stays away."""
    tokenizer = open_tokenizer("voxel_vq")
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again == tokenizer
    assert len(pickle.dumps(tokenizer)) < 500
    assert again.identity == tokenizer.identity
    assert tokenizer.can_decode
    assert tokenizer.takes == ("voxels",)
    assert tokenizer.resources.gpus == 0
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer as o;"
        "t = o('voxel_vq'); t.spec((64, 64, 64)); t.identity; t.load();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_view_is_one_that_fits() -> None:
    """The voxels view takes its options, and gives volumes that the tokenizer takes."""
    options = dict(VoxelVQ().default_view)
    assert options.pop("kind") == "voxels"
    view = build(Voxels, options, path="view")
    assert VoxelVQ().spec(view.shape)["shape"].shape == (8, 8, 8)


def test_the_spec_says_what_is_stored() -> None:
    """One stream of ids over x, y and z, fixed as far as the view's sides are."""
    (stream,) = VoxelVQ().spec((64, 32, None)).streams
    assert [axis.name for axis in stream.axes] == ["x", "y", "z"]
    assert (stream.name, stream.kind, stream.shape) == ("shape", "index", (8, 4, None))
    assert stream.vocab_sizes == (4096,)
    assert VoxelVQ().spec(None)["shape"].shape == (None, None, None)


def test_the_shipped_weights_are_small_and_do_not_change_unnoticed() -> None:
    """Stores are named by this hash: new weights are a new tokenizer."""
    assert WEIGHTS.stat().st_size < 2**20
    assert VoxelVQ().identity["weights_sha256"] == (
        "32691943bd1443f782d1686b35adf7c296f16694b3ec78d1db71395e2d68423d"
    )


def test_weights_of_ones_own_are_taken_and_checked(tmp_path: Path) -> None:
    """A checkpoint is used; one that is no codebook of blocks is refused."""
    codes = load_codebook(WEIGHTS).codes
    save_file({"codes": codes[:16].copy()}, tmp_path / "own.safetensors")
    tokenizer = open_tokenizer("voxel_vq", checkpoint=str(tmp_path / "own.safetensors"))
    assert tokenizer.spec(None)["shape"].vocab_sizes == (16,)
    assert tokenizer.identity != VoxelVQ().identity
    blocks = np.zeros((1, 1, 1, 1, 64), np.uint8)
    assert tokenizer.load().encode(blocks)["shape"].dtype == np.uint8

    save_file({"cells": codes}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match="has no tensor 'codes'"):
        load_codebook(tmp_path / "less.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_codebook(tmp_path / "text.safetensors")
    others: list[Any] = [codes[:, 1:], codes.astype(np.int16), codes[0]]
    for wrong in others:
        with pytest.raises(CheckpointError, match="wants uint8 codes"):
            Codebook(wrong)
    for wrong in (codes[1:], codes[:0]):
        with pytest.raises(CheckpointError, match="first code of voxel_vq must be the empty block"):
            Codebook(wrong)
