from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tokenmill.testing.golden import case_weights, check_samples, load_case
from tokenmill.tokenizers.filling import normals
from tokenmill.tokenizers.pointbert import PointBert, PointEncoder

GOLDEN = Path(__file__).parent / "point-bert-dvae"
CASE = load_case(GOLDEN / "1024pts.json")
DECODE = load_case(GOLDEN / "1024pts-decode.json")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded samples by the names that `check_samples` reads."""
    return recorded | {"flat_indices": recorded["flat_index"], "values": recorded["value"]}


def clouds() -> npt.NDArray[np.float32]:
    """The case's input ``float32[2, 1024, 3]``: random walks in the unit sphere."""
    given = CASE["input"]
    walk = normals(given["name"], tuple(given["shape"])).astype(np.float64).cumsum(axis=1)
    walk -= (walk.max(axis=1, keepdims=True) + walk.min(axis=1, keepdims=True)) / 2
    radius = np.sqrt(np.square(walk).sum(axis=-1)).max(axis=1)
    cloud: npt.NDArray[np.float32] = (walk / radius[:, None, None]).astype(np.float32)
    return cloud


def load(path: Path, weights: dict[str, torch.Tensor]) -> PointEncoder:
    """Save a checkpoint as distributed training does, and load it."""
    inside = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"base_model": inside, "epoch": 3, "metrics": {"CDL1": 0.1}}, path)
    return PointBert(checkpoint=str(path)).load()


def test_an_official_checkpoint_gives_the_official_ids(tmp_path: Path) -> None:
    """Centres, logits and ids; the case's keys are those of the encoding half."""
    encoder = load(tmp_path / "encoder.pth", case_weights(CASE))
    ours = {key: tuple(value.shape) for key, value in encoder.network.state_dict().items()}
    assert ours == {key: tuple(shape) for key, shape, _ in CASE["keys"]}

    cloud = clouds()
    groups, centers = encoder.preprocess(cloud)
    expected = np.take_along_axis(cloud, np.array(CASE["fps_index"])[..., None], axis=1)
    assert np.array_equal(centers.numpy(), expected)
    with torch.inference_mode():
        logits = encoder.network.logits(groups, centers).numpy()
    check_samples(logits, samples(CASE["pre_argmax"]))
    tokens = encoder.encode((groups, centers))
    assert np.array_equal(tokens["shape"], CASE["ids"])
    assert np.array_equal(tokens["centers"], expected)


def test_a_whole_checkpoint_decodes_to_the_official_points(tmp_path: Path) -> None:
    """Codes through the second DGCNN and the folding decoder, about the centres."""
    weights = case_weights(CASE, DECODE["keys"])
    encoder = load(tmp_path / "whole.pth", weights)
    assert encoder.network.state_dict().keys() == weights.keys()
    _, centers = encoder.preprocess(clouds())
    ids = np.array(CASE["ids"], np.uint16)
    decoded = encoder.decode({"shape": ids, "centers": centers.numpy()})
    check_samples(decoded, samples(DECODE["clouds"]))
