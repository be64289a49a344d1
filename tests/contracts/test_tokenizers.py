# ruff: noqa: D102  (methods of a protocol that says what they do)

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tokenmill.testing.faults import BlockMeans, BlockMeansEncoder
from tokenmill.testing.tokenizers import (
    CHECKS,
    Size,
    check_batches_do_not_matter,
    check_decode,
    check_pixels_are_left_alone,
    check_tokens,
)
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import Pixels, Tokenizer, Tokens

NARROW = {
    "ch": 32,
    "num_res_blocks": 1,
    "z_channels": 16,
    "codebook_size": 300,
    "encoder_ch_mult": (1, 1, 2),
    "decoder_ch_mult": (1, 1, 2),
}
THIN = {"channels": 32, "num_res_blocks": 1, "channels_mult": (1, 2, 2)}
TOKENIZERS: dict[str, tuple[Callable[[], Tokenizer], Size]] = {
    "patch_vq": (lambda: open_tokenizer("patch_vq"), (64, 48)),
    "llamagen": (
        lambda: open_tokenizer("llamagen", checkpoint="random:0", config=NARROW),
        (32, 48),
    ),
    "cosmos": (
        lambda: open_tokenizer("cosmos", variant="DI8x8", checkpoint="random:0", config=THIN),
        (32, 48),
    ),
    "of our tests": (BlockMeans, (32, 40)),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_of_tokenizers(name: str, check: Callable[[Tokenizer, Size], None]) -> None:
    """Every tokenizer keeps every promise."""
    make, size = TOKENIZERS[name]
    check(make(), size)


@dataclass(frozen=True, slots=True)
class Broken(BlockMeans):
    """A tokenizer that breaks the promise that ``how`` names."""

    how: str = ""

    def load(self, device: str = "cpu") -> BlockMeansEncoder:
        return BrokenEncoder(self, device)


class BrokenEncoder(BlockMeansEncoder):
    """Its live side."""

    def encode(self, inputs: Pixels) -> Tokens:
        how = self._config.how if isinstance(self._config, Broken) else ""
        tokens = super().encode(inputs)
        if how == "range":
            tokens["image"] = tokens["image"].astype(np.uint16) + 256
        if how == "batch":
            tokens["image"] = (tokens["image"] + len(inputs)).astype(np.uint8)
        if how == "order":
            tokens["image"] = tokens["image"][::-1]
        if how == "shape":
            tokens["image"] = tokens["image"].reshape(len(inputs), -1)
        if how == "stream":
            tokens["other"] = tokens["image"]
        if how == "writes":
            inputs[:] = 0
        return tokens

    def decode(self, tokens: Any) -> Pixels:
        return np.zeros((2, 32, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ("range", check_tokens),
        ("shape", check_tokens),
        ("stream", check_tokens),
        ("batch", check_batches_do_not_matter),
        ("order", check_batches_do_not_matter),
        ("writes", check_pixels_are_left_alone),
        ("decodes, and says that it cannot", check_decode),
    ],
)
def test_the_checks_catch_what_they_are_for(
    how: str, check: Callable[[Tokenizer, Size], None]
) -> None:
    """A tokenizer that breaks one promise fails the check of that promise."""
    with pytest.raises((AssertionError, ValueError)):
        check(Broken(how=how), (32, 40))
