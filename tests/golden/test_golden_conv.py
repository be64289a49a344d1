from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tokenmill.testing.golden import case_weights, check_samples, input_of, load_case
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.images import ImageEncoder

GOLDEN = Path(__file__).parent
CASES = [
    ("llamagen/vq16_128x192", "llamagen", "VQ-16", "model"),
    ("llamagen/vq8_96x128", "llamagen", "VQ-8", "model"),
    ("taming_vqgan/f16_16384_112x176", "taming", "f16-16384", "state_dict"),
    ("ldm_vq/f8_88x104", "taming", "vq-f8", "state_dict"),
    ("mar_kl16/kl16_96x160", "taming", "mar-kl16", "model"),
    ("vavae/f16d32_112x144", "taming", "vavae-f16d32", "state_dict"),
    ("maskgit-vqgan/imagenet_f16", "maskgit_vqgan", "imagenet-f16", ""),
]
#: In the official state dict, and of no part in any id.
UNUSED = {"quantize.codebook_used"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def decode_keys(case: dict[str, Any]) -> list[Any]:
    """Keys that only decoding needs; two makers of cases put them in two places."""
    keys: list[Any] = case["decode_keys"] if "decode_keys" in case else case["decode"]["keys"]
    return keys


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    folders = {name.partition("/")[0] for name, *_ in CASES}
    found = {f"{f}/{p.stem}" for f in folders for p in (GOLDEN / f).glob("*.json")}
    assert found == {name for name, *_ in CASES}


@pytest.mark.parametrize(("name", "kind", "variant", "wrapper"), CASES, ids=[c[0] for c in CASES])
def test_an_official_checkpoint_gives_the_official_tokens(
    name: str, kind: str, variant: str, wrapper: str, tmp_path: Path
) -> None:
    """Official keys, loaded from a training checkpoint, give the recorded tokens and pictures."""
    case = load_case(GOLDEN / f"{name}.json")
    weights = case_weights(case, decode_keys(case))
    path = tmp_path / "official.ckpt"
    more = {"loss.discriminator.main.0.weight": torch.zeros(1)}
    torch.save({wrapper: weights | more} if wrapper else weights | more, path)
    tokenizer = open_tokenizer(kind, variant=variant, checkpoint=str(path))
    encoder = cast("ImageEncoder", tokenizer.load())
    path.unlink()

    ours = {key: tuple(value.shape) for key, value in encoder.network.state_dict().items()}
    assert ours == {k: tuple(v.shape) for k, v in weights.items() if k not in UNUSED}
    _check_tokens(encoder, case)


def _check_tokens(encoder: ImageEncoder, case: dict[str, Any]) -> None:
    seen: list[torch.Tensor] = []
    latents_of = encoder.network.latents

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(latents_of(images))
        return seen[-1]

    encoder.network.latents = watched
    tokens = encoder.encode(torch.from_numpy(input_of(case)))["image"]
    latents = seen[0].numpy()
    check_samples(latents, case.get("moments") or case.get("latent") or _latent(case))
    if "ids" in case:
        assert tokens.dtype == np.uint16
        assert np.array_equal(tokens.reshape(-1), np.array(case["ids"]).reshape(-1))
    else:
        check_samples(tokens.transpose(0, 3, 1, 2), case["mean"])
    value = torch.from_numpy(tokens[:1].astype(np.int64 if "ids" in case else np.float32))
    with torch.inference_mode():
        pictures = encoder.network.images({"image": value}).numpy()
    check_samples(pictures, case["decode"].get("reconstruction") or case["decode"])


def _latent(case: dict[str, Any]) -> dict[str, Any]:
    latent: dict[str, Any] = case["latent_before_quantiser"]
    return latent


@pytest.mark.parametrize("name", ["mar_kl16/kl16_96x160"])
def test_the_log_variance_is_the_official_one(name: str) -> None:
    """``posterior = "mean_logvar"`` stores the clamped log-variance behind the mean."""
    case = load_case(GOLDEN / f"{name}.json")
    tokenizer: Any = open_tokenizer(
        "taming", variant="mar-kl16", checkpoint="random:0", posterior="mean_logvar"
    )
    network = tokenizer.network().eval()
    network.drop_decoder()
    network.load_state_dict(case_weights(case))
    with torch.inference_mode():
        moments = network.tokens(torch.from_numpy(input_of(case)))["image"]
    logvar = moments.permute(0, 3, 1, 2)[:, 16:].numpy()
    check_samples(logvar, case["logvar_after_clamp"])
