import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.checkpoints import fill_random
from tokenmill.tokenizers.networks.pointbert import nearest_centers
from tokenmill.tokenizers.networks.pointbert_config import (
    PointBertConfig,
    grouped,
    nearest_points,
)
from tokenmill.tokenizers.pointbert import DECODER, PointBert
from tokenmill.views.points import Points
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.strict import build

NARROW: dict[str, Any] = {
    "num_group": 16,
    "group_size": 8,
    "encoder_dims": 12,
    "num_tokens": 300,
    "tokens_dims": 12,
    "decoder_dims": 16,
}
Floats = npt.NDArray[np.float32]


def narrow(**more: Any) -> PointBert:
    """A small tokenizer: 16 groups of 8 points."""
    return PointBert(**{"checkpoint": "random:0", "config": NARROW} | more)


def clouds(count: int = 3, columns: int = 3) -> Floats:
    """Noise in a ball, with or without normals."""
    points = np.random.default_rng(0).normal(size=(count, 100, columns))
    return (points / 4).astype(np.float32)


def test_a_cloud_becomes_ids_with_centres_and_a_cloud_again() -> None:
    """The spec, the arrays and the reconstruction agree on shapes and types."""
    tokenizer = narrow()
    encoder = tokenizer.load()
    given_clouds = clouds()
    before = given_clouds.copy()
    tokens = encoder.encode(encoder.preprocess(given_clouds))
    spec = tokenizer.spec((100,))
    assert set(tokens) == {"shape", "centers"}
    for stream in spec.streams:
        assert tokens[stream.name].shape == (3, *stream.shape)
        assert tokens[stream.name].dtype == stream.storage_dtype
    assert spec["shape"].shape == (16,)
    assert spec["centers"].shape == (16, 3)
    assert spec["centers"].aligned_with == "shape"
    assert tokens["shape"].max() < 300
    assert len(np.unique(tokens["shape"])) > 5
    assert np.array_equal(given_clouds, before)
    for cloud, centers in zip(given_clouds, tokens["centers"], strict=True):
        assert (centers[:, None] == cloud[None]).all(axis=2).any(axis=1).all()
    back = encoder.decode(tokens)
    assert back.shape == (3, 16 * 8, 3)
    assert back.dtype == np.float32
    encoder.close()


def test_normals_are_passed_over() -> None:
    """Views with six columns give the ids of their first three."""
    encoder = narrow().load()
    six = clouds(columns=6)
    a, b = (encoder.encode(encoder.preprocess(c)) for c in (six, six[..., :3]))
    assert np.array_equal(a["shape"], b["shape"])
    assert np.array_equal(a["centers"], b["centers"])


def test_a_samples_ids_do_not_depend_on_its_batch() -> None:
    """Any of three is what it is alone and in another order."""
    encoder = narrow().load()
    together = encoder.encode(encoder.preprocess(clouds()))
    turned = encoder.encode(encoder.preprocess(clouds()[::-1]))
    for name in ("shape", "centers"):
        assert np.array_equal(turned[name][::-1], together[name])
    for index, cloud in enumerate(clouds()):
        alone = encoder.encode(encoder.preprocess(cloud[None]))
        assert np.array_equal(alone["shape"][0], together["shape"][index])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(12, 40), st.integers(0, 99), st.booleans())
def test_neighbours_are_those_of_a_stable_sort(
    count: int, points: int, seed: int, coarse: bool
) -> None:
    """Also where many points are equally near, the lower indices are taken."""
    rng = np.random.default_rng(seed)
    cloud = (rng.integers(-1, 2, (points, 3)) if coarse else rng.normal(size=(points, 3))).astype(
        np.float32
    )
    found = nearest_points(cloud, cloud[:5], count)
    distances = np.square(cloud[:5, None].astype(float) - cloud).sum(axis=2)
    expected = distances.argsort(axis=1, kind="stable")[:, :count]
    assert np.array_equal(found, np.sort(expected, axis=1))


def test_the_graph_holds_the_centre_itself_and_its_nearest() -> None:
    """Four of five on a line."""
    centers = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [6, 0, 0], [10, 0, 0]]])
    near = nearest_centers(centers)[0]
    assert near.tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [3, 2, 4, 1], [4, 3, 2, 1]]


def test_points_near_the_origin_are_no_centres() -> None:
    """As in PointNet++'s kernel; where no others are left it takes the first point again."""
    config = PointBertConfig(num_group=4, group_size=4)
    cloud = np.zeros((10, 3), np.float32)
    cloud[:, 0] = 0.001 * np.arange(10)
    cloud[7] = 0.5
    groups, centers = grouped(cloud, config)
    assert np.array_equal(centers, cloud[[0, 7, 0, 0]])
    assert np.array_equal(groups[1], cloud[6:] - cloud[7])
    assert np.array_equal(groups[0], cloud[:4] - cloud[0])


def test_clouds_that_are_too_small_are_refused() -> None:
    """By the plan and by the encoder."""
    with pytest.raises(JobError, match="at least 64 points, got 50"):
        PointBert(checkpoint="random:0").spec((50,))
    with pytest.raises(JobError, match="at least 16 points, got 10"):
        narrow().load().preprocess(clouds()[:, :10])
    assert PointBert().spec(None) == PointBert().spec((None,)) == PointBert().spec((1024,))
    assert PointBert().spec(None)["shape"].vocab_sizes == (8192,)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_groups": 4}, "did you mean 'num_group'"),
        ({"num_group": 3}, "at least 4"),
        ({"group_size": 6}, "multiple of 4"),
        ({"num_tokens": 30}, "multiples of 4"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_once(config: dict[str, Any], message: str) -> None:
    """Before any actor is asked to load it."""
    with pytest.raises(JobError, match=message):
        open_tokenizer("pointbert", config=config)


def test_the_description_crosses_processes_and_needs_no_torch() -> None:
    """And its default view is one that the points view takes."""
    assert pickle.loads(pickle.dumps(narrow())) == narrow()
    assert narrow().takes == ("points",)
    assert narrow().can_decode
    identities = [narrow(), narrow(checkpoint="random:1"), narrow(config=NARROW | {"num_group": 8})]
    assert len({str(each.identity) for each in identities}) == 3
    options = dict(PointBert().default_view)
    assert options.pop("kind") == "points"
    assert build(Points, options, path="view").shape == (1024,)
    code = (
        "import sys; from tokenmill.tokenizers import open_tokenizer as o;"
        "t = o('pointbert', checkpoint='random:0');"
        "t.spec((1024,)); t.identity; t.resources; t.default_view;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_without_decoder_encodes_and_says_so_on_decode(tmp_path: Path) -> None:
    """And one of another size is refused."""
    network = narrow().network()
    fill_random(network, "random:0")
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(DECODER)}
    torch.save({"base_model": state}, tmp_path / "half.pth")
    encoder = narrow(checkpoint=str(tmp_path / "half.pth")).load()
    tokens = encoder.encode(encoder.preprocess(clouds()))
    whole = narrow().load()
    assert np.array_equal(tokens["shape"], whole.encode(whole.preprocess(clouds()))["shape"])
    with pytest.raises(JobError, match="no decoder"):
        encoder.decode(tokens)
    other = narrow(checkpoint=str(tmp_path / "half.pth"), config=NARROW | {"num_tokens": 304})
    with pytest.raises(CheckpointError, match="have another shape"):
        other.load()
    with pytest.raises(CheckpointError, match="name a checkpoint"):
        PointBert().load()
