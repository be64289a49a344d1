"""Architectures of the tokenizers that are trained here; all of it without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

#: 64,000 ids, 15.97 bits, as in the table of the authors of finite scalar quantization.
LEVELS_16 = (8, 8, 8, 5, 5, 5)
#: Pixels down and across that the first layer of a picture encoder takes together.
PATCH = 4


@dataclass(frozen=True, slots=True)
class MillImageConfig:
    """A picture tokenizer: widths and numbers of residual blocks, stage by stage.

    The encoder's first stage has one position per 4x4 pixels, each further one a quarter as many;
    the decoder goes the same way back. A position of the last stage gives ``fold`` x ``fold`` ids:
    what a block of pixels has in common is then said once, and not by each of its ids anew.
    """

    levels: tuple[int, ...] = LEVELS_16
    encoder_widths: tuple[int, ...] = (64, 160)
    encoder_depths: tuple[int, ...] = (1, 1)
    decoder_widths: tuple[int, ...] = (160, 64)
    decoder_depths: tuple[int, ...] = (2, 2)
    fold: int = 1

    def __post_init__(self) -> None:
        stages = {len(self.encoder_widths), len(self.encoder_depths)}
        stages |= {len(self.decoder_widths), len(self.decoder_depths)}
        if len(stages) != 1:
            raise ValueError("widths and depths of encoder and decoder must have as many stages")

    @property
    def factor(self) -> int:
        """Pixels down, and across, per id."""
        return (PATCH << len(self.encoder_widths) - 1) // self.fold

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return prod(self.levels)


IMAGE_VARIANTS: dict[str, MillImageConfig] = {
    "f8": MillImageConfig(),
    "f16": MillImageConfig(
        encoder_widths=(56, 112, 176),
        encoder_depths=(1, 1, 1),
        decoder_widths=(176, 96, 56),
        decoder_depths=(1, 1, 1),
    ),
}


@dataclass(frozen=True, slots=True)
class MillVideoConfig:
    """A clip tokenizer around a picture tokenizer, which the first frame goes through alone.

    Every further id stands for ``group`` frames of 8x8 pixels. The first channels of four ids say
    how their 16x16 pixels move, or what colour they have anew; the others say what else is new.
    ``fine_width`` is that of features of 4x4 pixels of each frame, ``width`` that of features of
    8x8 pixels of a whole group.
    """

    picture: MillImageConfig = field(default_factory=MillImageConfig)
    group: int = 4
    fine_width: int = 64
    width: int = 128
    fine_encoder_depth: int = 1
    encoder_depth: int = 2
    decoder_depth: int = 2
    fine_decoder_depth: int = 2

    def __post_init__(self) -> None:
        if self.picture.factor != 2 * PATCH:
            raise ValueError("the picture tokenizer must have an id per 8x8 pixels")
        levels = self.picture.levels
        if len(levels) < 2 or not 4 <= levels[0] <= 16 or not 1 <= self.group <= 6:
            raise ValueError("a first channel of 4 to 16 levels, more, and 1 to 6 frames a group")

    @property
    def news_levels(self) -> tuple[int, ...]:
        """Levels of the channels that say what is new."""
        return self.picture.levels[1:]

    @property
    def factor(self) -> int:
        """Pixels down, and across, per id."""
        return self.picture.factor

    @property
    def vocab_size(self) -> int:
        """How many ids there are, for the first frame and for all others."""
        return self.picture.vocab_size


@dataclass(frozen=True, slots=True)
class MillShapeConfig:
    """A tokenizer of volumes: an id per 8x8x8 cells."""

    levels: tuple[int, ...] = LEVELS_16
    fine_width: int = 32
    coarse_width: int = 128
    fine_depth: int = 1
    encoder_depth: int = 1
    decoder_depth: int = 2

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return prod(self.levels)


@dataclass(frozen=True, slots=True)
class MillPrefixConfig:
    """A picture as a sequence of ids of which every beginning decodes.

    Convolutions take ``side`` pixels down to a grid of features, a thirty-second as wide, which is
    as fine as some 2,000 bits can be. ``groups`` matrices turn the grid's positions, some channels
    each, into ``count`` ids, and as many turn ids into positions again.
    """

    levels: tuple[int, ...] = LEVELS_16
    side: int = 256
    count: int = 128
    min_prefix: int = 16
    encoder_widths: tuple[int, ...] = (32, 64, 128, 192)
    encoder_depths: tuple[int, ...] = (0, 1, 1, 0)
    decoder_widths: tuple[int, ...] = (192, 128, 64, 32)
    decoder_depths: tuple[int, ...] = (0, 1, 1, 1)
    groups: int = 48

    @property
    def width(self) -> int:
        """Channels of the grid, and of the sequence."""
        return self.encoder_widths[-1]

    @property
    def grid(self) -> int:
        """Features down, and across."""
        return self.side // (PATCH << len(self.encoder_widths) - 1)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return prod(self.levels)
