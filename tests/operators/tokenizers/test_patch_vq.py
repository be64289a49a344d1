import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors.numpy import load_file, save_file

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.patch_vq import WEIGHTS, PatchEncoder, PatchVQ
from tokenmill.tokenizers.patch_vq_codebook import (
    BASIS_BITS,
    Codebook,
    from_patches,
    load_codebook,
    nearest_codes,
    score_table,
    to_patches,
)
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.tokens import TokenSpec

SAMPLES = Path(__file__).parents[3] / "pipelines/samples/images/photos"


@pytest.fixture(scope="module")
def encoder() -> PatchEncoder:
    """The shipped quantizer."""
    loaded = PatchVQ().load()
    assert isinstance(loaded, PatchEncoder)
    return loaded


def _photo(name: str, size: int = 256) -> npt.NDArray[np.uint8]:
    image = Image.open(SAMPLES / name).convert("RGB")
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), 3)
    return np.asarray(image.crop((0, 0, size, size)))


def _psnr(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


def _reference_ids(pixels: npt.NDArray[np.uint8], book: Codebook) -> npt.NDArray[np.int64]:
    """The definition, in int64 and one patch at a time."""
    height, width = pixels.shape[0] // 8, pixels.shape[1] // 8
    basis, codes = book.basis.astype(np.int64), book.codes.astype(np.int64)
    ids = np.empty((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            patch = pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].astype(np.int64).ravel() - 128
            features = (basis @ patch + 2 ** (BASIS_BITS - 1)) >> BASIS_BITS
            ids[y, x] = np.square(codes - features).sum(1).argmin()
    return ids


@pytest.mark.parametrize("name", ["stream.jpg", "brushes_icc.jpg"])
def test_ids_are_those_of_integer_arithmetic(encoder: PatchEncoder, name: str) -> None:
    """Float32 products give exactly the ids of the definition in 64-bit integers."""
    pixels = _photo(name, 96)
    ids = encoder.encode(encoder.preprocess(pixels[None]))["image"][0]
    np.testing.assert_array_equal(ids, _reference_ids(pixels, load_codebook(WEIGHTS)))


def test_ids_of_noise_and_extremes_are_exact(encoder: PatchEncoder) -> None:
    """Saturated noise, where sums are greatest, agrees with integer arithmetic too."""
    pixels = np.random.default_rng(0).choice([0, 255], (64, 64, 3)).astype(np.uint8)
    pixels[:8], pixels[8:16] = 0, 255
    ids = encoder.encode(encoder.preprocess(pixels[None]))["image"][0]
    np.testing.assert_array_equal(ids, _reference_ids(pixels, load_codebook(WEIGHTS)))


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.int16, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(-9, 9)),
    hnp.arrays(np.int16, st.tuples(st.integers(1, 300), st.just(3)), elements=st.integers(-9, 9)),
)
def test_ties_go_to_the_lowest_id(
    codes: npt.NDArray[np.int16], rows: npt.NDArray[np.int16]
) -> None:
    """With few values there are many ties; the first nearest code wins each of them."""
    ids = nearest_codes(rows.astype(np.float32), score_table(codes))
    distances = np.square(rows[:, None].astype(int) - codes[None]).sum(-1)
    np.testing.assert_array_equal(ids, distances.argmin(1))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_patches_fold_back(count: int, rows: int, columns: int, seed: int) -> None:
    """Cutting into patches and joining them is the identity."""
    shape = (count, 8 * rows, 8 * columns, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    patches = to_patches(pixels)
    assert patches.shape == (count, rows, columns, 192)
    np.testing.assert_array_equal(from_patches((patches + 128).astype(np.uint8)), pixels)


def test_a_picture_does_not_depend_on_its_batch(encoder: PatchEncoder) -> None:
    """Alone, in a batch and in another order a picture gets the same ids and pixels."""
    batch = np.stack([_photo(n) for n in ("sunset.jpg", "stream.jpg", "mountain_path.jpg")])
    whole = encoder.encode(encoder.preprocess(batch))["image"]
    turned = encoder.encode(encoder.preprocess(batch[::-1]))["image"]
    np.testing.assert_array_equal(whole, turned[::-1])
    for ids, pixels in zip(whole, batch, strict=True):
        alone = encoder.encode(encoder.preprocess(pixels[None]))["image"]
        np.testing.assert_array_equal(alone[0], ids)
    one = encoder.decode({"image": whole[1:2]})
    np.testing.assert_array_equal(one[0], encoder.decode({"image": whole})[1])


@pytest.mark.parametrize("size", [(8, 8), (8, 256), (264, 16)])
def test_any_multiple_of_eight_goes_there_and_back(
    encoder: PatchEncoder, size: tuple[int, int]
) -> None:
    """Sizes agree between pixels, ids, spec and reconstruction."""
    pixels = np.full((2, *size, 3), 200, np.uint8)
    ids = encoder.encode(encoder.preprocess(pixels))["image"]
    stream = PatchVQ().spec(size)["image"]
    assert ids.shape[1:] == stream.shape
    assert ids.dtype == stream.storage_dtype
    assert encoder.decode({"image": ids}).shape == pixels.shape


@pytest.mark.parametrize(
    ("name", "floor_db"), [("sunset.jpg", 28.9), ("stream.jpg", 19.9), ("lounge.webp", 25.4)]
)
def test_reconstructions_keep_their_quality(
    encoder: PatchEncoder, name: str, floor_db: float
) -> None:
    """PSNR of shipped photographs stays above what the shipped weights reach."""
    pixels = _photo(name)
    ids = encoder.encode(encoder.preprocess(pixels[None]))
    assert _psnr(encoder.decode(ids)[0], pixels) > floor_db


def test_flat_colours_stay_flat(encoder: PatchEncoder) -> None:
    """A flat picture comes back within a few levels, without a visible grid."""
    for level in (0, 128, 255):
        pixels = np.full((1, 32, 32, 3), level, np.uint8)
        back = encoder.decode(encoder.encode(encoder.preprocess(pixels))).astype(int)
        assert abs(back - level).max() <= 8
        assert np.ptp(back) <= 8


def test_other_sizes_are_refused() -> None:
    """A side that is no multiple of 8 is an error that says so."""
    with pytest.raises(JobError, match="multiples of 8, got 250x256"):
        PatchVQ().spec((250, 256))
    with pytest.raises(JobError, match="multiples of 8"):
        PatchVQ().load().preprocess(np.zeros((1, 12, 16, 3), np.uint8))


def test_the_description_is_cheap_and_crosses_processes() -> None:
    """It pickles small, compares equal, and its identity names the weights."""
    tokenizer = open_tokenizer("patch_vq")
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again == tokenizer
    assert len(pickle.dumps(tokenizer)) < 500
    assert again.identity == tokenizer.identity
    assert len(tokenizer.identity["weights_sha256"]) == 64
    assert tokenizer.can_decode
    assert tokenizer.resources.gpus == 0
    assert tokenizer.default_view == {"kind": "center_crop", "size": 256, "rule": "bicubic"}


def test_the_spec_says_what_is_stored() -> None:
    """One stream of ids over h and w, fixed when the view's size is."""
    spec = PatchVQ().spec((256, 192))
    assert isinstance(spec, TokenSpec)
    (stream,) = spec.streams
    assert (stream.name, stream.kind, stream.shape) == ("image", "index", (32, 24))
    assert stream.vocab_sizes == (4096,)
    assert PatchVQ().spec(None)["image"].shape == (None, None)


def test_the_shipped_weights_are_small_and_do_not_change_unnoticed() -> None:
    """Stores are named by this hash: new weights are a new tokenizer."""
    assert WEIGHTS.stat().st_size < 2**20
    assert PatchVQ().identity["weights_sha256"] == (
        "d2b28b1d754469839e28b8ef69baf6381cc5e9bceaa48d84eb2a734648b06aef"
    )


def test_weights_of_ones_own_are_taken_and_checked(tmp_path: Path) -> None:
    """A checkpoint is used; one that lacks a tensor, or could round, is refused."""
    own = load_file(WEIGHTS)
    own["codes"] = own["codes"][:16].copy()
    save_file(own, tmp_path / "own.safetensors")
    tokenizer = open_tokenizer("patch_vq", checkpoint=str(tmp_path / "own.safetensors"))
    assert tokenizer.spec(None)["image"].vocab_sizes == (16,)
    assert tokenizer.identity != PatchVQ().identity
    assert tokenizer.load().encode(np.zeros((1, 1, 1, 192), np.float32))["image"].dtype == np.uint8

    save_file({"codes": own["codes"]}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match="has no tensor 'basis'"):
        load_codebook(tmp_path / "less.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_codebook(tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match="ids could differ between machines"):
        Codebook(own["basis"], np.full_like(own["codes"], 5000), own["synthesis"])
    with pytest.raises(CheckpointError, match="wants int16 basis"):
        Codebook(own["basis"], own["codes"][:, 1:], own["synthesis"])
