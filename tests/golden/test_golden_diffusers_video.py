import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, check_samples, load_case, picture
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.images import ImageEncoder

GOLDEN = Path(__file__).parent
FAMILIES = ("wan-vae", "hunyuanvideo-vae", "ltx-vae")
#: Of the latents' standard deviation, as the cases suggest.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_file_gives_the_official_latents(family: str, tmp_path: Path) -> None:
    """Every latent, the posterior's deviations and the decoded clip are as diffusers gives them."""
    cases = sorted((GOLDEN / family).glob("*.json"))
    assert [path.stem for path in cases] == ["tiny-17x64x64"]
    case = load_case(cases[0])
    path = tmp_path / "vae.safetensors"
    save_file(case_weights(case, case["keys_decode"]), path)
    tokenizer = open_tokenizer(
        "diffusers_video_vae",
        variant=case["official"]["class"],
        checkpoint=str(path),
        config=case["official"]["kwargs"],
        posterior="mean_logvar",
    )
    encoder = cast("ImageEncoder", tokenizer.load())

    given = case["input"]
    x = picture(given["name"], tuple(given["shape"]), low=given["low"], high=given["high"])
    tokens = encoder.encode(torch.from_numpy(x))["video"]
    stream = tokenizer.spec(given["shape"][2:])["video"]
    assert tokens.shape[1:] == stream.shape
    mean, logvar = np.split(tokens.transpose(0, 4, 1, 2, 3), 2, axis=1)
    _check(mean, case["latent"])
    expected = _whole(case["latent_full"])
    assert np.abs(mean - expected).max() <= TOLERANCE * expected.std()
    _check(np.exp(logvar / 2), case["posterior_std"])
    with torch.inference_mode():
        clip = encoder.network.clips({"video": torch.from_numpy(tokens)}).numpy()
    _check(clip, case["decode"])


def _check(actual: Any, recorded: Mapping[str, Any]) -> None:
    named = {"flat_indices": recorded["flat_index"], "values": recorded["value"]}
    check_samples(actual, {**recorded, **named}, relative=TOLERANCE)


def _whole(recorded: Mapping[str, Any]) -> Any:
    raw = base64.b64decode(recorded["base64_float32_le"])
    return np.frombuffer(raw, "<f4").reshape(recorded["shape"])
