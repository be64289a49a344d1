"""Architectures of the tokenizers that are trained here; all of it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

#: 64,000 ids, 15.97 bits, as in the table of the authors of finite scalar quantization.
LEVELS_16 = (8, 8, 8, 5, 5, 5)


@dataclass(frozen=True, slots=True)
class MillImageConfig:
    """A picture tokenizer: widths and numbers of residual blocks, stage by stage.

    The encoder's first stage has one position per 4x4 pixels, each further one a quarter as many;
    the decoder goes the same way back.
    """

    levels: tuple[int, ...] = LEVELS_16
    encoder_widths: tuple[int, ...] = (64, 160)
    encoder_depths: tuple[int, ...] = (1, 1)
    decoder_widths: tuple[int, ...] = (160, 64)
    decoder_depths: tuple[int, ...] = (2, 2)

    @property
    def factor(self) -> int:
        """Pixels down, and across, per id."""
        return 4 * 2 ** (len(self.encoder_widths) - 1)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return prod(self.levels)
