import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenmill.tokenizers.patch_vq_codebook import BASIS_BITS
from tokenmill_pipelines.fit.codebooks import patch_vq as fitting
from tokenmill_pipelines.fit.codebooks.pictures import Corpora, drawings, photos, recolour


@pytest.fixture
def corpora(tmp_path: Path) -> Corpora:
    """Two photographs of two licences and 21 drawings: one a link, one under GPL."""
    rng = np.random.default_rng(0)
    rows = [
        {"uri": "own.jpg", "licence": "CC-BY-4.0"},
        {"uri": "shared.jpg", "licence": "CC-BY-SA-4.0"},
    ]
    (tmp_path / "photos").mkdir()
    for row in rows:
        noise = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(noise).resize((700, 660)).save(tmp_path / "photos" / row["uri"])
    drawn = [{"uri": f"{n:02d}.png", "licence": "public domain", "same_as": ""} for n in range(21)]
    drawn[3]["same_as"] = "02.png"
    drawn[4]["licence"] = "GPL-2.0"
    (tmp_path / "drawings").mkdir()
    for row in drawn:
        colours = rng.integers(0, 256, (6, 6, 4), np.uint8)
        Image.fromarray(colours, "RGBA").resize((256, 300), 0).save(
            tmp_path / "drawings" / row["uri"]
        )
    for name, listing in (("photos", rows), ("drawings", drawn)):
        text = "".join(json.dumps(row) + "\n" for row in listing)
        (tmp_path / name / "listing.jsonl").write_text(text)
    return Corpora(tmp_path / "photos", tmp_path / "drawings")


def test_what_is_fitted_on_and_what_is_held_out_are_apart(corpora: Corpora) -> None:
    """Share-alike photos, links and other licences never enter the fit."""
    assert [p.name for p in photos(corpora.photos, held_out=False)] == ["own.jpg"]
    assert [p.name for p in photos(corpora.photos, held_out=True)] == ["shared.jpg"]
    kept = drawings(corpora.drawings, held_out=False)
    out = drawings(corpora.drawings, held_out=True)
    assert len(kept) == 18
    assert [p.name for p in out] == ["00.png"]
    assert not {"03.png", "04.png"} & {p.name for p in kept}


def test_a_fit_repeats_itself_and_decodes(corpora: Corpora) -> None:
    """The same seed gives the same weights, whose reconstructions beat a flat grey."""
    settings = fitting.Settings(codes=64, patches=4000, iterations=3, neighbour_features=2)
    book = fitting.fit(corpora, settings)
    again = fitting.fit(corpora, settings)
    for name in ("basis", "codes", "synthesis"):
        np.testing.assert_array_equal(getattr(book, name), getattr(again, name))
    scores = fitting.scores(book, corpora)
    assert scores["drawings"]["psnr_db_mean"] > 12
    assert 1 < scores["photos"]["entropy_bits"] <= 6


def test_lloyd_lowers_the_error_and_revives_empty_codes() -> None:
    """Three clusters and four codes, two of which start at the same row."""
    rng = np.random.default_rng(1)
    rows = np.repeat(np.array([[0, 0], [90, 0], [0, 90]], np.float32), 50, axis=0)
    codes = fitting.lloyd(rows, 4, 8, rng)
    errors = np.square(rows[:, None] - codes[None].astype(np.float32)).sum(-1).min(1)
    assert errors.max() == 0


def test_the_basis_is_orthogonal_within_a_plane() -> None:
    """The integer DCT rows of luma have one length and are at right angles."""
    basis = fitting.dct_basis(24, 8).astype(np.float64) / 2**BASIS_BITS
    luma = basis[np.abs(basis.reshape(40, 64, 3).sum(2)).max(1) > 0.05]
    np.testing.assert_allclose(luma @ luma.T, np.eye(24) * (luma[0] @ luma[0]), atol=2e-3)
    assert np.ptp(basis[:3].reshape(3, 64, 3), axis=1).max() == 0
    assert basis.shape == (40, 192)


def test_recolouring_keeps_shape_and_range() -> None:
    """Recoloured pixels are pixels, and not the same ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    other = recolour(pixels, np.random.default_rng(2))
    assert other.shape == pixels.shape
    assert other.dtype == np.uint8
    assert (other != pixels).any()
