import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tokenmill.tokenizers.patch_vq_codebook import BASIS_BITS
from tokenmill_pipelines.fit.codebooks import clips
from tokenmill_pipelines.fit.codebooks import patch_vq_video as fitting
from tokenmill_pipelines.fit.codebooks.pictures import Corpora


@pytest.fixture
def corpora(tmp_path: Path) -> clips.ClipCorpora:
    """Two photographs, three drawings, and a film that brightens from frame to frame."""
    rng = np.random.default_rng(0)
    listings = {
        "photos": [("a.png", "CC-BY-4.0"), ("b.png", "CC-BY-SA-4.0")],
        "drawings": [(f"{n}.png", "public domain") for n in range(3)],
    }
    sizes = {"photos": (700, 660), "drawings": (140, 150)}
    for folder, names in listings.items():
        (tmp_path / folder).mkdir()
        rows = [{"uri": uri, "licence": licence, "same_as": ""} for uri, licence in names]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / folder / "listing.jsonl").write_text(text)
        for uri, _ in names:
            noise = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
            noise.resize(sizes[folder]).save(tmp_path / folder / uri)
    _film(tmp_path / "film.mkv", 200)
    pictures = Corpora(tmp_path / "photos", tmp_path / "drawings")
    return clips.ClipCorpora(pictures, tmp_path / "film.mkv")


def _film(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 144, "bgr0"
        for number in range(frames):
            pixels = np.full((144, 160, 3), number, np.uint8)
            pixels[:, :16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def test_the_end_of_the_film_is_held_out(corpora: clips.ClipCorpora) -> None:
    """No frame is in both parts, each clip is 12 even steps, and both sides are seen."""
    known = clips.film_clips(corpora.film, held_out=False)
    unseen = clips.film_clips(corpora.film, held_out=True)
    middle = known[..., 64, 64, 0]
    assert int(middle.max()) < 160 <= int(unseen[..., 64, 64, 0].min())
    steps = np.diff(middle.astype(int), axis=1)
    assert {tuple(row) for row in steps} == {11 * (1,), 11 * (2,)}
    assert {bool((clip[0, :, 0] == 255).all()) for clip in known} == {True, False}


def test_a_pan_is_an_even_motion_over_the_picture() -> None:
    """Some stand still; the others have steps of one size, and nothing is beyond an edge."""
    ramp = np.tile(np.linspace(60, 200, 600)[None, :, None], (500, 1, 3))
    image = Image.fromarray(np.rint(ramp).astype(np.uint8))
    rng = np.random.default_rng(3)
    made = [clips.pan(image, rng) for _ in range(40)]
    still = [bool((clip == clip[0]).all()) for clip in made]
    assert 4 <= sum(still) <= 25
    for clip in made:
        assert clip.shape == (12, 128, 128, 3)
        assert 58 <= clip.min() <= clip.max() <= 202
        drift = np.diff(clip.mean((1, 2, 3)))
        assert np.ptp(drift) < 0.3


def test_a_fit_repeats_itself_and_decodes(corpora: clips.ClipCorpora) -> None:
    """The same seed gives the same weights, whose reconstructions beat a flat grey."""
    settings = fitting.VideoSettings(
        codes=64, luma=10, chroma=3, neighbour_features=3, tubes=3000, pans=8, iterations=3
    )
    book = fitting.fit(corpora, settings)
    again = fitting.fit(corpora, settings)
    for name in ("basis", "codes", "synthesis"):
        np.testing.assert_array_equal(getattr(book, name), getattr(again, name))
    assert book.is_video
    assert book.neighbour_features == 3
    scores = fitting.scores(book, corpora)
    assert scores["photos"]["psnr_db_mean"] > 15
    assert 1 < scores["photos"]["entropy_bits"] <= 6


def test_the_basis_begins_with_the_means_and_has_no_two_alike(corpora: clips.ClipCorpora) -> None:
    """Rows are orthogonal within a plane; the first three are flat."""
    pans = clips.camera_pans(corpora.pictures, 2, np.random.default_rng(0), held_out=False)
    basis = fitting.energy_basis(pans, fitting.VideoSettings()).astype(float) / 2**BASIS_BITS
    assert basis.shape == (40, 768)
    flat = basis[:3].reshape(3, 256, 3)
    assert (flat == flat[:, :1]).all()
    assert np.linalg.matrix_rank(basis) == 40
