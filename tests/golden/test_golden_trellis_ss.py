import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenmill.testing.golden import case_weights, check_samples, load_case, picture
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.volumes import VolumeEncoder

CASE = load_case(Path(__file__).parent / "trellis-ss/ss-small-64.json")


def samples(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded samples by the names that `check_samples` reads."""
    return recorded | {"flat_indices": recorded["flat_index"], "values": recorded["value"]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Encoder and decoder as the authors' code saves them; returns the encoder's JSON."""
    halves = {
        "ss_enc": (CASE["keys"], CASE["official"]["kwargs"], "SparseStructureEncoder"),
        "ss_dec": (CASE["keys_decode"], CASE["decode"]["kwargs"], "SparseStructureDecoder"),
    }
    for half, (keys, arguments, name) in halves.items():
        path = tmp_path / f"{half}_conv3d_16l8_fp16.safetensors"
        save_file(case_weights({"keys": keys, "gain": CASE["gain"]}), path)
        path.with_suffix(".json").write_text(json.dumps({"name": name, "args": arguments}))
    return tmp_path / "ss_enc_conv3d_16l8_fp16.json"


def test_official_files_give_the_official_latents_and_cells(checkpoint: Path) -> None:
    """Mean and log-variance, channels last, and the logits of the decoder."""
    tokenizer = open_tokenizer(
        "trellis_ss", checkpoint=str(checkpoint), posterior="mean_logvar", decoder=""
    )
    encoder = cast("VolumeEncoder", tokenizer.load())
    volume = picture(CASE["input"]["name"], tuple(CASE["input"]["shape"]))[:, 0] > 0.5
    assert volume.sum() == CASE["occupied"]
    tokens = encoder.encode(encoder.preprocess(volume))
    mean, logvar = np.split(tokens["shape"].transpose(0, 4, 1, 2, 3), 2, axis=1)
    check_samples(mean, samples(CASE["latent"]))
    check_samples(logvar, samples(CASE["logvar"]))
    with torch.inference_mode():
        logits = encoder.network.logits({"shape": torch.from_numpy(tokens["shape"])}).numpy()
    check_samples(logits, samples(CASE["decode"]))
    assert encoder.decode(tokens).sum() == CASE["decode"]["occupied"]
