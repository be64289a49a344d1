import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, check_samples, input_of, load_case
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.images import ImageEncoder
from tokenmill.tokenizers.titok import TiTok

GOLDEN = Path(__file__).parent
#: Case, variant, and the form in which its official checkpoint is written.
CASES = [
    ("titok/s128", "S-128", ".safetensors"),
    ("titok/bl64_vq8k", "BL-64-vq8k", ".bin"),
    ("titok/bl64_vae_c16", "BL-64-vae", ".safetensors"),
    ("tatitok/bl32_vq", "TA-BL-32-vq", ".bin"),
    ("one-d-piece/s256", "One-D-Piece-S-256", ".safetensors"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    folders = {name.partition("/")[0] for name, *_ in CASES}
    found = {f"{f}/{p.stem}" for f in folders for p in (GOLDEN / f).glob("*.json")}
    assert found == {name for name, *_ in CASES}


@pytest.mark.parametrize(
    ("name", "variant", "suffix"),
    # The larger networks of the same form.
    [*CASES[:2], *(pytest.param(*c, marks=pytest.mark.slow) for c in CASES[2:4]), CASES[4]],
    ids=[c[0] for c in CASES],
)
def test_an_official_checkpoint_gives_the_official_tokens(
    name: str, variant: str, suffix: str, tmp_path: Path
) -> None:
    """A file of the official keys loads as it is and gives the recorded tokens and pictures."""
    case = load_case(GOLDEN / f"{name}.json")
    weights = case_weights(case, case["decode"]["keys"] if "decode" in case else [])
    path = tmp_path / f"official{suffix}"
    if suffix == ".bin":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    tokenizer = open_tokenizer("titok", variant=variant, checkpoint=str(path))
    encoder = cast("ImageEncoder", tokenizer.load())
    path.unlink()

    ours = {key: tuple(value.shape) for key, value in encoder.network.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in weights.items()}
    inputs = torch.from_numpy(input_of(case))
    tokens = encoder.encode(inputs)["image"]
    if case["ids"] is None:
        _check_values(encoder, inputs, case)
    else:
        _check_ids(encoder, tokens, inputs, case)
    for key, count in (("decode", None), ("decode_prefix_64", 64)):
        if key in case:
            ids = {"image": torch.from_numpy(tokens[:1, :count].astype(np.int64))}
            with torch.inference_mode():
                check_samples(encoder.network.images(ids).numpy(), case[key])


@pytest.mark.parametrize(("name", "variant"), [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_a_variant_is_the_official_configuration(name: str, variant: str) -> None:
    """The case's own configuration, laid over the variant, changes nothing but the decoder's size.

    Cases that only encode were made with a small decoder.
    """
    official = load_case(GOLDEN / f"{name}.json")["official"]["kwargs"]
    ours = TiTok(variant, "random:0").architecture
    laid = TiTok(variant, "random:0", config=official).architecture
    assert replace(laid, vit_dec_model_size=ours.vit_dec_model_size) == ours


def _check_ids(
    encoder: ImageEncoder, tokens: npt.NDArray[Any], inputs: torch.Tensor, case: dict[str, Any]
) -> None:
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens[:, None], np.array(case["ids"]))
    with torch.inference_mode():
        check_samples(encoder.network.latents(inputs).numpy(), case["latent"])


def _check_values(encoder: ImageEncoder, inputs: torch.Tensor, case: dict[str, Any]) -> None:
    encoder.network.posterior = "mean_logvar"
    with torch.inference_mode():
        values = encoder.network.tokens(inputs)["image"]
    expected = [_array(case["values"][name]) for name in ("mode", "logvar")]
    actual = values.transpose(1, 2).unsqueeze(2).numpy()
    tolerance = 100 * case["float32_noise"]
    np.testing.assert_allclose(actual, np.concatenate(expected, axis=1), rtol=0, atol=tolerance)


def _array(entry: dict[str, Any]) -> npt.NDArray[np.float32]:
    flat = np.frombuffer(base64.b64decode(entry["base64"]), "<f4")
    return flat.reshape(entry["shape"])
