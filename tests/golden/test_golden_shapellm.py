import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tokenmill.testing.golden import case_weights, check_samples, load_case, picture
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.volumes import VolumeEncoder, Volumes

CASES = Path(__file__).parent / "shapellm-3dvqvae"
SIDE = 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def occupancy(case: dict[str, Any]) -> Volumes:
    """The case's input ``bool[1, 64, 64, 64]``, axes x, y, z."""
    if "occupancy_packbits_xyz" in case:
        packed = np.frombuffer(base64.b64decode(case["occupancy_packbits_xyz"]), np.uint8)
        volume = np.unpackbits(packed).reshape(SIDE, SIDE, SIDE) > 0
    else:
        volume = picture(case["input"]["name"], (SIDE,) * 3) > case["input"]["threshold"]
    assert volume.sum() == case["occupied"]
    return volume[None]


def samples(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded samples by the names that `check_samples` reads."""
    return recorded | {"flat_indices": recorded["flat_index"], "values": recorded["value"]}


@pytest.mark.parametrize("width", [pytest.param("full", marks=pytest.mark.slow), "small"])
def test_an_official_checkpoint_gives_the_official_ids(width: str, tmp_path: Path) -> None:
    """Official keys in a .bin give the recorded ids, of two volumes in one batch."""
    cases = [load_case(path) for path in sorted(CASES.glob(f"{width}-*.json"))]
    assert len(cases) == 2
    assert cases[0]["gain"] == cases[1]["gain"]
    weights: dict[str, torch.Tensor] = {}
    for case in cases:
        weights |= case_weights(case, case.get("keys_decode", []))
    torch.save(weights, tmp_path / "3DVQVAE.bin")
    config = {"channels": cases[0]["official"]["kwargs"]["encoder"]["channels"]}
    tokenizer = open_tokenizer(
        "shapellm_vqvae", checkpoint=str(tmp_path / "3DVQVAE.bin"), config=config
    )
    encoder = cast("VolumeEncoder", tokenizer.load())
    ours = {key: tuple(value.shape) for key, value in encoder.network.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in weights.items()}

    seen: list[torch.Tensor] = []
    latents_of = encoder.network.latents

    def watched(volumes: torch.Tensor) -> torch.Tensor:
        seen.append(latents_of(volumes))
        return seen[-1]

    encoder.network.latents = watched
    inputs = encoder.preprocess(np.concatenate([occupancy(case) for case in cases]))
    ids = encoder.encode(inputs)["shape"]
    for case, latent in zip(cases, seen[0].numpy(), strict=True):
        check_samples(latent[None], samples(case["latent"]))
    assert ids.dtype == np.uint16
    assert np.array_equal(ids, np.concatenate([case["ids"] for case in cases]))


def test_ids_decode_to_the_official_logits() -> None:
    """And the occupied cells are those above zero."""
    case = load_case(CASES / "small-occupancy.json")
    channels = case["official"]["kwargs"]["encoder"]["channels"]
    tokenizer: Any = open_tokenizer(
        "shapellm_vqvae", checkpoint="random:0", config={"channels": channels}
    )
    network = tokenizer.network()
    network.load_state_dict(case_weights(case, case["keys_decode"]))
    encoder = VolumeEncoder(network, tokenizer.spec(None))
    ids = np.array(case["ids"])
    with torch.inference_mode():
        logits = network.logits({"shape": torch.from_numpy(ids)}).numpy()
    check_samples(logits, samples(case["decode"]))
    assert np.array_equal(encoder.decode({"shape": ids.astype(np.uint16)}), logits[:, 0] > 0)
