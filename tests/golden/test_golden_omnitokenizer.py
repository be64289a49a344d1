"""OmniTokenizer against the official class, at full width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenmill.testing.golden import case_weights, check_samples, input_of, load_case
from tokenmill.tokenizers.checkpoints import assign
from tokenmill.tokenizers.clips import ClipEncoder
from tokenmill.tokenizers.networks.omnitokenizer_config import Attention
from tokenmill.tokenizers.omnitokenizer import CENTERED, OmniTokenizer

GOLDEN = Path(__file__).parent / "omnitokenizer"
CASES = ["image-128", "video-17x128"]
#: In the official state dict, and of no part in any id of the fused attention.
UNUSED = (".context_norm", ".spatial_rel_pos_bias", ".relative_position_index")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_file_is_tested() -> None:
    """A golden file of this family that is added must be listed here."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)


def samples(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded samples under the names that `check_samples` knows."""
    return {**recorded, "flat_indices": recorded["flat_index"], "values": recorded["value"]}


def filled(weights: dict[str, Tensor], attention: Attention = "sdpa") -> ClipEncoder:
    """The live encoder with official weights."""
    tokenizer = OmniTokenizer(checkpoint="random:0", attention=attention)
    with torch.device("meta"):
        network = tokenizer.network()
    done = assign(network, weights, optional=("decoder.", "post_vq_conv."))
    if done.absent:
        network.drop_decoder()
    assert all(key.endswith(UNUSED) for key in done.unused_prefixes), done.unused_prefixes
    return ClipEncoder(network, tokenizer.spec(None), normalisation=CENTERED)


def clips_of(case: dict[str, Any]) -> Tensor:
    """The case's input, images as clips of one frame."""
    inputs = torch.from_numpy(input_of(case))
    return inputs[:, :, None] if inputs.ndim == 4 else inputs


@pytest.mark.parametrize("name", CASES)
def test_official_weights_give_the_official_tokens(name: str) -> None:
    """Official keys give the recorded vectors, ids and reconstructions."""
    case = load_case(GOLDEN / f"{name}.json")
    encoder = filled(case_weights(case, case["keys_decode"]))
    seen: list[Tensor] = []
    latents_of = encoder.network.latents

    def watched(clips: Tensor) -> Tensor:
        seen.append(latents_of(clips))
        return seen[-1]

    encoder.network.latents = watched
    tokens = encoder.encode(clips_of(case))["video"]
    check_samples(seen[0].numpy(), samples(case["pre_quant"]))
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens, case["ids"])
    with torch.inference_mode():
        pixels = encoder.network.clips({"video": torch.from_numpy(tokens.astype(np.int64))})
    shape = case["decode"]["shape"]
    check_samples(pixels.reshape(shape).numpy(), samples(case["decode"]))


def test_the_older_branch_gives_the_ids_that_were_counted() -> None:
    """Biases by distance in time change as many ids as in the official class."""
    case = load_case(GOLDEN / "video-17x128.json")
    encoder = filled(case_weights(case), "einsum")
    tokens = encoder.encode(clips_of(case))["video"]
    differing = int((tokens != np.array(case["ids"])).sum())
    assert differing == case["mistakes"]["einsum branch (ALiBi used)"]
