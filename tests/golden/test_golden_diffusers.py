from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, check_samples, input_of, load_case
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.images import ImageEncoder

GOLDEN = Path(__file__).parent
CASES = [
    ("diffusers_kl/sd_f8c4_72x88", "mean_logvar"),
    ("diffusers_dc/f32c32_small_128x192", "mean"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    folders = {name.partition("/")[0] for name, _ in CASES}
    found = {f"{f}/{p.stem}" for f in folders for p in (GOLDEN / f).glob("*.json")}
    assert found == {name for name, _ in CASES}


@pytest.mark.parametrize(("name", "posterior"), CASES, ids=[c[0] for c in CASES])
def test_a_state_dict_file_gives_the_official_latents(
    name: str, posterior: str, tmp_path: Path
) -> None:
    """Configuration and a file of the official keys give the recorded latents and pictures."""
    case = load_case(GOLDEN / f"{name}.json")
    weights = case_weights(case, case["decode_keys"])
    path = tmp_path / "vae.safetensors"
    save_file(weights, path)
    official = case["official"]
    tokenizer = open_tokenizer(
        "diffusers_vae",
        variant=official["class"],
        checkpoint=str(path),
        config=official["kwargs"],
        posterior=posterior,
    )
    encoder = cast("ImageEncoder", tokenizer.load())
    path.unlink()

    ours = {key: tuple(v.shape) for key, v in encoder.network.vae.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in weights.items()}
    inputs = torch.from_numpy(input_of(case))
    tokens = torch.from_numpy(encoder.encode(inputs)["image"])
    check_samples(tokens.permute(0, 3, 1, 2).numpy(), case["latent"])
    with torch.inference_mode():
        pictures = encoder.network.images({"image": tokens}).numpy()
    check_samples(pictures, case["decode"]["reconstruction"])
    height, width = inputs.shape[2:]
    stream = tokenizer.spec((height, width))["image"]
    assert stream.shape == tokens.shape[1:]
    if "mean_scaled" in case:
        assert stream.latent is not None
        mean = tokens[..., : stream.channels // 2].permute(0, 3, 1, 2)
        scaled = (mean - stream.latent.shift[0]) * stream.latent.scale[0]
        check_samples(scaled.numpy(), case["mean_scaled"])
