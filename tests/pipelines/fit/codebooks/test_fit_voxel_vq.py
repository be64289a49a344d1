import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenmill.tokenizers.voxel_vq import BYTES, Packed, to_blocks, unpack
from tokenmill_pipelines.fit.codebooks import voxel_vq as fitting

SAMPLES = Path(__file__).parents[4] / "pipelines/samples/shapes"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped objects; one is there twice, one lies beside a licence of its own, one is bad."""
    folder = tmp_path_factory.mktemp("objects")
    for path in (SAMPLES / "objects").iterdir():
        shutil.copy(path, folder / path.name)
    shutil.copy(SAMPLES / "objects/mug.obj", folder / "mug_again.obj")
    (folder / "own").mkdir()
    shutil.copy(SAMPLES / "hard/degenerate.obj", folder / "own/thing.obj")
    (folder / "own/LICENSE.txt").write_text("CC-BY-SA")
    shutil.copy(SAMPLES / "bad/empty.obj", folder / "zero.obj")
    return folder


def rows(count: int, seed: int = 0) -> Packed:
    """Distinct noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, BYTES), np.uint8)


def test_what_is_fitted_on_and_what_is_held_out_are_apart(objects: Path) -> None:
    """Every tenth file and folders with a licence are held out; of equal files one is left."""
    kept = {path.name for path in fitting.files(objects, held_out=False)}
    out = {path.name for path in fitting.files(objects, held_out=True)}
    assert not kept & out
    assert "thing.obj" in out
    assert "mug_again.obj" not in kept | out
    assert "block.obj" in out
    assert {"torus.obj", "finger.stl", "mug.obj"} <= kept


def test_a_fit_repeats_itself_and_reconstructs(objects: Path) -> None:
    """The same seed gives the same codes, ordered from empty to full; bad files are passed over."""
    settings = fitting.Settings(codes=64, blocks=1500, iterations=3)
    book, again = (fitting.fit(objects, settings) for _ in range(2))
    np.testing.assert_array_equal(book.codes, again.codes)
    occupied = unpack(book.codes).sum(axis=1, dtype=np.int64)
    assert (occupied[0], occupied[-1]) == (0, 512)
    assert (np.diff(occupied) >= 0).all()
    assert len(np.unique(book.codes, axis=0)) == len(book.codes) == 64
    scores = fitting.scores(book, objects)
    assert scores["codes"] == 64
    assert scores["fitted surface"]["iou_mean"] > 0.3
    assert scores["fitted solid"]["iou_mean"] > 0.7
    assert 0 < scores["unseen surface"]["entropy_bits"] <= 6


def test_a_code_is_what_most_of_its_rows_have() -> None:
    """Two far clusters, each around a centre with single cells flipped, and counted rows."""
    centres = np.stack([np.full(BYTES, 0b00001111, np.uint8), np.full(BYTES, 0b11110000, np.uint8)])
    near = [centre ^ (np.eye(BYTES, dtype=np.uint8)[k]) for centre in centres for k in range(9)]
    data = fitting.distinct(np.stack([*near, *near]))
    assert data[1].tolist() == [2] * 18
    rng = np.random.default_rng(3)
    codes = fitting.k_modes(data, 2, 6, rng)
    assert {code.tobytes() for code in codes} == {centre.tobytes() for centre in centres}


def test_codes_that_are_of_no_use_are_replaced() -> None:
    """Empty, full and double ones make room for the rows that are worst off."""
    given, weights = fitting.distinct(rows(50))
    empty, full = np.zeros((1, BYTES), np.uint8), np.full((1, BYTES), 255, np.uint8)
    codes = np.concatenate([empty, given[:5], full, given[:2]])
    whole = fitting.completed(codes, given, weights)
    assert len(whole) == len(codes)
    assert len(np.unique(whole, axis=0)) == len(whole)
    assert {row.tobytes() for row in whole} <= {row.tobytes() for row in given}
    assert {row.tobytes() for row in given[:5]} <= {row.tobytes() for row in whole}


def test_a_cube_has_48_positions() -> None:
    """Each of them keeps what is inside, and chance finds them all."""
    rng = np.random.default_rng(0)
    volume = rng.random((8, 8, 8)) < 0.5
    seen = {to_blocks(fitting.turned(volume, rng)[None]).tobytes() for _ in range(600)}
    assert len(seen) == 48
