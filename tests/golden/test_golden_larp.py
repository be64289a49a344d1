import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, input_of, load_case
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.clips import ClipEncoder
from tokenmill.tokenizers.larp import Larp
from tokenmill_schemas.errors import JobError

GOLDEN = Path(__file__).parent / "larp"
CASES = ["small-8x64", "L-long-16x128"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)


@pytest.mark.parametrize("name", [CASES[0], pytest.param(CASES[1], marks=pytest.mark.slow)])
def test_an_official_folder_gives_the_official_ids(name: str, tmp_path: Path) -> None:
    """A folder as on the hub, prior and all, loads as it is and gives the recorded ids.

    The cases were recorded with a timm whose blocks have eps 1e-6, which is the default. Only with
    that one are the values before quantization the same to 1e-5; the ids are those of either.
    """
    case = load_case(GOLDEN / f"{name}.json")
    weights = case_weights(case, case.get("keys_decode", []))
    _write_folder(weights, case["official"]["kwargs"], tmp_path)
    inputs = torch.from_numpy(input_of(case))
    for eps in (None, 1e-5) if name.startswith("small") else (None,):
        encoder = _load(tmp_path, eps)
        with torch.inference_mode():
            latents = encoder.network.latents(inputs)
            ids = encoder.network.bottleneck.regularizer.ids(latents)
        assert np.array_equal(ids.numpy(), np.array(case["ids"]))
        _check(latents, case["pre_quant"], tolerance=1e-5 if eps is None else 1e-3)
        tokens = encoder.encode(inputs)["video"] if name.startswith("small") else None
        assert tokens is None or (tokens.dtype == "uint16" and np.array_equal(tokens, ids))
    if "decode" not in case:
        with pytest.raises(JobError, match="no decoder"):
            encoder.decode({"video": np.zeros((1, 1024), np.uint16)})


def test_the_official_decoder_gives_the_official_frames(tmp_path: Path) -> None:
    """Ids become the recorded values of the official class."""
    case = load_case(GOLDEN / "small-8x64.json")
    weights = case_weights(case, case["keys_decode"])
    _write_folder(weights, case["official"]["kwargs"], tmp_path)
    encoder = _load(tmp_path)
    ours = {key: tuple(value.shape) for key, value in encoder.network.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in weights.items()}
    with torch.inference_mode():
        frames = encoder.network.clips({"video": torch.tensor(case["ids"])})
    _check(frames, case["decode"], tolerance=1e-5)


def test_a_folder_of_the_encoder_alone_only_encodes(tmp_path: Path) -> None:
    """It says so when it is asked for frames."""
    case = load_case(GOLDEN / "small-8x64.json")
    _write_folder(case_weights(case), case["official"]["kwargs"], tmp_path)
    with pytest.raises(JobError, match="no decoder"):
        _load(tmp_path).decode({"video": np.array(case["ids"], np.uint16)})


def test_the_variant_is_the_official_configuration(tmp_path: Path) -> None:
    """The case's own configuration describes the variant, and nothing else."""
    official = load_case(GOLDEN / "L-long-16x128.json")["official"]["kwargs"]
    (tmp_path / "config.json").write_text(json.dumps(official))
    assert Larp("", str(tmp_path)).architecture == Larp("L-long", "random:0").architecture


def _write_folder(weights: dict[str, torch.Tensor], config: dict[str, Any], folder: Path) -> None:
    prior = {"prior_model.blocks.0.norm1.weight": torch.zeros(8)}
    save_file(weights | prior, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def _load(folder: Path, eps: float | None = None) -> ClipEncoder:
    config = {} if eps is None else {"norm_eps": eps}
    tokenizer = open_tokenizer("larp", variant="", checkpoint=str(folder), config=config)
    return cast("ClipEncoder", tokenizer.load())


def _check(values: torch.Tensor, expected: dict[str, Any], *, tolerance: float) -> None:
    assert list(values.shape) == expected["shape"]
    found = values.numpy().reshape(-1)[expected["flat_index"]]
    atol = tolerance * expected["std"]
    np.testing.assert_allclose(found, expected["value"], rtol=0, atol=atol)
