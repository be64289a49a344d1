"""Cosmos tokenizers against the official classes, at full width."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenmill.testing.golden import case_weights, check_samples, input_of, load_case
from tokenmill.tokenizers.checkpoints import assign
from tokenmill.tokenizers.clips import CausalClipEncoder
from tokenmill.tokenizers.cosmos import Cosmos, Variant
from tokenmill.tokenizers.describe import SIGNED
from tokenmill.tokenizers.filling import normals
from tokenmill.tokenizers.images import ImageEncoder
from tokenmill.tokenizers.networks.cosmos_parts import Fsq

GOLDEN = Path(__file__).parent / "cosmos"
CASES: list[tuple[str, Variant]] = [
    ("ci8x8-64x96", "CI8x8"),
    ("cv4x8x8-9x64x64", "CV4x8x8"),
    ("di16x16-128x128", "DI16x16"),
    ("di8x8-96x64", "DI8x8"),
    ("dv4x8x8-17x64x64", "DV4x8x8"),
    ("dv8x16x16-17x128x128", "DV8x16x16"),
]
#: Layers that official files carry, and that no value goes through.
UNUSED = ("encoder.down.", "decoder.up.")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == {name for name, _ in CASES} | {"fsq"}


def samples(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded samples under the names that `check_samples` knows."""
    return {**recorded, "flat_indices": recorded["flat_index"], "values": recorded["value"]}


def filled(tokenizer: Cosmos, weights: dict[str, Tensor]) -> Any:
    """The live encoder with official weights."""
    with torch.device("meta"):
        network: Any = tokenizer.network()
    left = assign(network, weights).unused_prefixes
    assert all(".downsample" in key or ".upsample" in key for key in left), left
    assert all(key.startswith(UNUSED) for key in left), left
    kind = CausalClipEncoder if tokenizer.architecture.video else ImageEncoder
    return kind(network, tokenizer.spec(None), normalisation=SIGNED)


@pytest.mark.parametrize(("name", "variant"), CASES, ids=[name for name, _ in CASES])
def test_official_weights_give_the_official_tokens(name: str, variant: Variant) -> None:
    """Official keys give the recorded ids, or latents, and the recorded reconstructions."""
    case = load_case(GOLDEN / f"{name}.json")
    tokenizer = Cosmos(variant, checkpoint="random:0")
    encoder = filled(tokenizer, case_weights(case, case["keys_decode"]))
    inputs = torch.from_numpy(input_of(case))
    (stream,) = tokenizer.spec(inputs.shape[2:]).streams
    tokens = encoder.encode(inputs)[stream.name]
    assert tokens.shape == (len(inputs), *stream.shape)
    assert tokens.dtype == stream.storage_dtype
    if "ids" in case:
        assert np.array_equal(tokens, case["ids"])
    else:
        _check_latents(np.moveaxis(tokens, -1, 1), case)
    _check_pixels(encoder, stream.name, tokens, case)


def _check_latents(latents: Any, case: dict[str, Any]) -> None:
    check_samples(latents, samples(case["latent"]))
    content = base64.b64decode(case["latent_full"]["base64_float32_le"])
    recorded = np.frombuffer(content, "<f4").reshape(latents.shape)
    assert np.abs(latents - recorded).max() < 1e-4 * recorded.std()


def _check_pixels(encoder: Any, name: str, tokens: Any, case: dict[str, Any]) -> None:
    kind = np.int64 if "ids" in case else np.float32
    given = {name: torch.from_numpy(tokens.astype(kind))}
    back = encoder.network.clips if name == "video" else encoder.network.images
    with torch.inference_mode():
        pixels = back(given).numpy()
    check_samples(pixels, samples(case["decode"]))


def test_the_quantizers_input_is_the_official_one() -> None:
    """What is rounded is near enough to the recorded values for ids to be no luck."""
    case = load_case(GOLDEN / "di8x8-96x64.json")
    encoder = filled(
        Cosmos("DI8x8", checkpoint="random:0"), case_weights(case, case["keys_decode"])
    )
    with torch.inference_mode():
        latents = encoder.network.latents(torch.from_numpy(input_of(case))).numpy()
    check_samples(latents, samples(case["pre_quant"]), relative=2e-5)


def test_finite_scalar_quantization_is_the_official_one() -> None:
    """Ids of vectors of noise, and of vectors that tell the known formulas apart."""
    recorded = load_case(GOLDEN / "fsq.json")
    case = recorded["case"]
    given = normals(case["input"]["name"], tuple(case["input"]["shape"]))
    given = given * np.float32(case["input"]["scale"])
    sets = [(case["levels"], given, case["ids"])]
    for probe in recorded["boundary_probes"]:
        content = base64.b64decode(probe["inputs"]["base64_float32_le"])
        values = np.frombuffer(content, "<f4").reshape(probe["inputs"]["shape"])
        sets.append((probe["levels"], values, probe["ids"]))
    for levels, values, ids in sets:
        quantizer = Fsq(tuple(levels))
        ours = quantizer.ids(torch.from_numpy(values.copy()))
        assert ours.tolist() == ids
        assert torch.equal(quantizer.ids(_edges(quantizer, ours)), ours)


def _edges(quantizer: Fsq, ids: Tensor) -> Tensor:
    """Inputs whose bounded values are the codes of ids, by the inverse of the bound."""
    levels = quantizer.levels
    half = (levels - 1) * 1.001 / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    bounded = quantizer.codes(ids) * (levels // 2)
    return ((bounded + offset) / half).atanh() - (offset / half).atanh()
