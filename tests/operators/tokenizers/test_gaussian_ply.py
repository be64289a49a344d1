from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.shards.columns import decode_stream, make_batch
from tokenmill.testing.checks import require_identity
from tokenmill.testing.shapes import splat, splat_values
from tokenmill.testing.tokenizers import TELL
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.gaussian_ply import GaussianPly, canonical_order, morton
from tokenmill.views import open_view
from tokenmill.views.gaussians import Layout
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import spec_from_json

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
configs = st.builds(
    GaussianPly,
    degree=st.integers(0, 3),
    extent=st.sampled_from([1.0, 2.0, 0.7]),
    position_bits=st.integers(1, 20),
    rotation_bits=st.integers(1, 20),
    bits=st.integers(1, 16),
    scale_range=st.sampled_from([(-14.0, 0.0), (-10.0, 6.0)]),
)


def view_of(count: int, degree: int, *, seed: int = 0) -> Rows:
    """The view of a random splat."""
    (view,) = list(
        open_view("gaussians", {"degree": degree}).views(splat(count, degree, seed=seed), "k")
    )
    return np.asarray(view.data, np.float32)


def random_ids(config: GaussianPly, count: int, seed: int) -> dict[str, list[Ids]]:
    """Any ids within the vocabularies, in the one order of their set."""
    rng = np.random.default_rng(seed)
    sizes = [size for stream in config.spec(None).streams for size in stream.vocab_sizes]
    ids = rng.integers(0, sizes, (count, len(sizes)))
    ids = ids[canonical_order(ids)]
    return {"geometry": [ids[:, :11]], "features": [ids[:, 11:]]}


def encoded(config: GaussianPly, *views: Rows) -> dict[str, Any]:
    """The tokens of views."""
    encoder = config.load()
    return encoder.encode(encoder.preprocess(views))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two tokenizations are equal, sample by sample."""
    return all(
        np.array_equal(a, b)
        for name in ("geometry", "features")
        for a, b in zip(one[name], other[name], strict=True)
    )


@settings(max_examples=80, deadline=None)
@given(config=configs, count=st.integers(0, 60), seed=st.integers(0, 10**6))
def test_all_ids_decode_and_are_found_again(config: GaussianPly, count: int, seed: int) -> None:
    """encode(decode(t)) == t for every set of ids within the vocabularies, at any options."""
    tokens = random_ids(config, count, seed)
    decoded = config.load().decode(tokens)
    assert decoded[0].shape == (count, Layout(config.degree).channels)
    assert np.isfinite(decoded[0]).all()
    assert same(encoded(config, *decoded), tokens)


@settings(max_examples=40, deadline=None)
@given(degree=st.integers(0, 3), count=st.integers(1, 60), seed=st.integers(0, 10**6))
def test_decoding_gives_the_middles_of_the_bins(degree: int, count: int, seed: int) -> None:
    """decode(encode(x)) is x with each attribute in the middle of its bin, row for row."""
    config, layout = GaussianPly(degree), Layout(degree)
    drawn = np.random.default_rng(seed).uniform(-0.49, 0.49, (count, layout.channels))
    drawn[:, layout.scale] = drawn[:, layout.scale] * 14 - 7
    tokens = encoded(config, drawn.astype(np.float32))
    found = config.load().decode(tokens)[0].astype(np.float64)
    cells = np.floor((drawn[:, :3].astype(np.float32) + 0.5) * 2**16)
    rows = drawn[np.argsort([_interleaved(cell) for cell in cells])]
    steps = np.empty(layout.channels)
    steps[layout.position] = 2.0**-16
    steps[layout.colour], steps[layout.rest] = 8 / 256, 2 / 256
    steps[layout.opacity], steps[layout.scale] = 16 / 256, 14 / 256
    plain = slice(0, layout.rotation.start)
    assert (np.abs(found - rows)[:, plain] <= steps[plain] / 2 + 1e-6).all()
    unit = rows[:, layout.rotation] / np.linalg.norm(rows[:, layout.rotation], axis=1)[:, None]
    turned = np.abs((unit * found[:, layout.rotation]).sum(axis=1))
    assert (turned > 1 - 1e-4).all()
    assert same(encoded(config, config.load().decode(tokens)[0]), tokens)


def _interleaved(cell: npt.NDArray[np.float64]) -> int:
    """A Morton code, bit by bit."""
    return sum(
        (int(cell[axis]) >> bit & 1) << (3 * bit + axis) for bit in range(16) for axis in range(3)
    )


@given(st.lists(st.tuples(*[st.integers(0, 2**21 - 1)] * 3), min_size=1, max_size=20))
def test_morton_codes_interleave_bits(cells: list[tuple[int, int, int]]) -> None:
    """All 63 bits stand where they should."""
    expected = [
        sum((cell[axis] >> bit & 1) << (3 * bit + axis) for bit in range(21) for axis in range(3))
        for cell in cells
    ]
    assert morton(np.array(cells, np.int64)).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.integers(1, 3))
def test_a_set_has_one_sequence(seed: int, bits: int) -> None:
    """The order of a view's rows does not matter, even where many share a cell or are equal."""
    rng = np.random.default_rng(seed)
    config = GaussianPly(position_bits=bits, bits=1, rotation_bits=1)
    rows = rng.normal(size=(80, 14)).astype(np.float32)
    rows = rows[rng.integers(0, 60, 80)]
    tokens = encoded(config, rows)
    assert same(encoded(config, rows[rng.permutation(80)]), tokens)
    ids = np.hstack([tokens["geometry"][0], tokens["features"][0]]).astype(np.int64)
    keys = [(int(code), *row) for code, row in zip(morton(ids[:, :3]), ids.tolist(), strict=True)]
    assert keys == sorted(keys)


def test_rotations_of_either_sign_are_one() -> None:
    """Q and -q have equal ids, of any length; a rotation of no length stands for none."""
    config, layout = GaussianPly(), Layout(0)
    rows = view_of(100, 0)
    other = rows.copy()
    other[:, layout.rotation] *= np.where(np.arange(100) % 2, -1.0, 0.25)[:, None]
    assert same(encoded(config, other), encoded(config, rows))
    rows[:, layout.rotation] = 0
    found = config.load().decode(encoded(config, rows))[0][:, layout.rotation]
    assert (found[:, 0] > 0.99).all()


def test_values_beyond_a_range_fall_into_the_last_bin() -> None:
    """They clip, as infinities do; what is no number is refused."""
    rows = np.zeros((2, 14), np.float32)
    rows[:, -4] = 1
    rows[0, :10], rows[1, :10] = 1e9, -np.inf
    tokens = encoded(GaussianPly(), rows)
    low, high = tokens["geometry"][0].astype(int)
    assert low.tolist()[:6] == [0] * 6
    assert high.tolist()[:6] == [65535] * 3 + [255] * 3
    assert tokens["features"][0].tolist() == [[0] * 3, [255] * 3]
    rows[0, 5] = np.nan
    with pytest.raises(ValueError, match="no number"):
        encoded(GaussianPly(), rows)


@pytest.mark.parametrize("degree", range(4))
def test_the_spec_sizes_the_tables(degree: int) -> None:
    """Ids lie within the vocabularies, in the narrowest types; shards take and give them back."""
    config = GaussianPly(degree)
    spec = config.spec((None,))
    assert spec_from_json(spec.to_json()) == spec
    geometry, features = spec.streams
    assert geometry.vocab_sizes == (*[65536] * 3, *[256] * 3, 4, *[256] * 3, 256)
    assert features.vocab_sizes == (256,) * (3, 12, 27, 48)[degree]
    assert (geometry.storage_dtype, features.storage_dtype) == ("uint16", "uint8")
    assert (geometry.order, features.aligned_with) == ("unordered", "geometry")
    assert config.spec((7,))["geometry"].shape == (7, 11)
    tokens = encoded(config, view_of(5, degree), view_of(9, degree, seed=1))
    for packing in ("raw", "bits"):
        layout = ShardLayout(spec, "bits" if packing == "bits" else "raw")
        names = {"sample_id": ["a", "b"], "asset_key": ["a", "b"]}
        batch = make_batch(layout, tokens, names)
        stored = {s.name: decode_stream(batch, s, layout.packing) for s in spec.streams}
        assert same(stored, tokens)
    for stream in spec.streams:
        for ids in tokens[stream.name]:
            assert ids.dtype == stream.storage_dtype
            assert (ids < np.array(stream.vocab_sizes)).all()


def test_the_description() -> None:
    """It pickles, tells the same identity in another process, and its own view suits it."""
    config = open_tokenizer("gaussian_ply", degree=2, bits=6)
    require_identity(config)
    assert pickle.loads(pickle.dumps(config)) == config
    told = subprocess.run(
        [sys.executable, "-c", TELL], input=pickle.dumps(config), capture_output=True, check=True
    )
    assert json.loads(told.stdout) == config.identity
    assert config.identity != open_tokenizer("gaussian_ply", degree=2).identity
    assert config.takes == ("gaussians",)
    assert config.can_decode
    options = dict(config.default_view)
    view = open_view(options.pop("kind"), options)
    (each,) = list(view.views(splat(12, 3), "k"))
    encoder = config.load("cpu")
    tokens = encoder.encode(encoder.preprocess([each.data]))
    assert encoder.decode(tokens)[0].shape == each.data.shape
    encoder.close()


def test_batches_do_not_matter_and_views_are_left_alone() -> None:
    """A view's ids are the same alone, among others, and stacked with others of its length."""
    views = [view_of(9, 1, seed=seed) for seed in range(4)]
    before = [view.copy() for view in views]
    config = GaussianPly(1)
    whole = encoded(config, *views)
    encoder = config.load()
    assert same(whole, encoder.encode(encoder.preprocess(np.stack(views))))
    for i, view in enumerate(views):
        alone = encoded(config, view)
        assert same(alone, {name: whole[name][i : i + 1] for name in whole})
        assert np.array_equal(view, before[i])
    backwards = encoded(config, *views[::-1])
    assert same(backwards, {name: whole[name][::-1] for name in whole})


def test_the_degree_of_the_view_must_be_its_own() -> None:
    """Rows of other attributes are refused with the key that mends it."""
    with pytest.raises(JobError, match=r"view\.degree"):
        encoded(GaussianPly(1), view_of(3, 0))


@pytest.mark.parametrize(
    "options",
    [
        {"degree": 4}, {"bits": 0}, {"position_bits": 21}, {"extent": -1.0},
        {"scale_range": [1.0, 1.0]}, {"rest_range": [0.0, float("inf")]},
        {"bits": 20, "scale_range": [1000.0, 1001.0]},
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, Any]) -> None:
    """What would not decode to itself is refused when the job is read."""
    with pytest.raises(JobError):
        open_tokenizer("gaussian_ply", **options)


def test_values_of_a_splat_survive_at_the_stated_bins() -> None:
    """Of a whole splat, the worst error of each attribute is half a bin."""
    (view,) = list(open_view("gaussians", {}).views(splat(500), "k"))
    layout = Layout(0)
    decoded = GaussianPly().load().decode(encoded(GaussianPly(), view.data))[0]
    ranges = {"position": 1 / 65536, "scale": 14 / 256, "opacity": 16 / 256, "colour": 8 / 256}
    clipped = np.clip(view.data[:, layout.scale], -14, 0)
    for name, step in ranges.items():
        part = getattr(layout, name)
        given_ones = clipped if name == "scale" else view.data[:, part]
        if name == "opacity":
            given_ones = np.clip(given_ones, -6, 10)
        pairs = np.sort(given_ones, axis=0), np.sort(decoded[:, part], axis=0)
        assert np.abs(pairs[0] - pairs[1]).max() <= step / 2 + 1e-5
    assert splat_values(500).shape == view.data.shape
