"""VidTok's architectures, by the names of their official configuration files; without torch.

Tang et al.: VidTok: A Versatile and Open-Source Video Tokenizer (arXiv:2412.13061),
github.com/microsoft/VidTok. ``488`` means 4 x 8 x 8: frames, rows and columns per id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tokenmill.tokenizers.clip_grid import Frames

#: What a convolution over time reads where there are no frames:
#:
#: - ``zeros``: zeros before the clip; v1.0, causal;
#: - ``first``: the first frame again, before the clip; v1.1, causal;
#: - ``both``: zeros before and after the clip, each frame seeing the next ones; not causal.
TimePadding = Literal["zeros", "first", "both"]


@dataclass(frozen=True, slots=True)
class VidTokConfig:
    """Sizes by the official names.

    ``tempo_ds`` and ``tempo_us`` are the levels of the encoder and of the decoder (0 has all
    pixels) after which time is halved or doubled; empty means the authors' default, two levels
    below the lowest resolution and two below the highest.
    """

    levels: tuple[int, ...]
    time_padding: TimePadding
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    tempo_ds: tuple[int, ...] = ()
    tempo_us: tuple[int, ...] = ()
    ch: int = 128
    num_res_blocks: int = 2

    def __post_init__(self) -> None:
        count = len(self.ch_mult)
        if count < 3 or min(self.levels, default=0) < 2 or self.ch < 1 or self.num_res_blocks < 1:
            raise ValueError("VidTok needs three levels of ch_mult or more, and FSQ levels above 1")
        if len(self.halved) != len(self.doubled):
            raise ValueError("tempo_ds and tempo_us must have the same number of levels")
        if not set(self.halved) < set(range(count)) or count - 1 in self.halved:
            raise ValueError(f"tempo_ds must lie below {count - 1}, got {self.tempo_ds}")
        if not set(self.doubled) < set(range(count)) or 0 in self.doubled:
            raise ValueError(f"tempo_us must lie between 1 and {count - 1}, got {self.tempo_us}")

    @property
    def halved(self) -> tuple[int, ...]:
        """Levels of the encoder after which time is halved."""
        return self.tempo_ds or (len(self.ch_mult) - 3, len(self.ch_mult) - 2)

    @property
    def doubled(self) -> tuple[int, ...]:
        """Levels of the decoder after which time is doubled."""
        return self.tempo_us or (1, 2)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, all pixels first."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    @property
    def causal(self) -> bool:
        """Whether no frame depends on a later one."""
        return self.time_padding != "both"

    @property
    def time_factor(self) -> int:
        """Frames per position, but for the first position of a causal clip."""
        return 1 << len(self.halved)

    @property
    def factor(self) -> int:
        """Pixels per position on each side."""
        return 1 << (len(self.ch_mult) - 1)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return math.prod(self.levels)

    @property
    def frames(self) -> Frames:
        """Lengths of clips whose every position stands for a known set of frames.

        The causal networks pad other lengths in front, by a number of frames that depends on the
        length of the whole clip; such clips are refused, because nothing in the ids would tell.
        """
        step = self.time_factor
        return Frames(1, step) if self.causal else Frames(step, step)


_16 = {"ch_mult": (1, 2, 4, 4, 4)}
_888 = {"tempo_ds": (0, 1, 2), "tempo_us": (1, 2, 3)}
#: Variant to its differences from the defaults; six digits are the number of ids, 8 per level.
VARIANTS: dict[str, dict[str, Any]] = {
    "488-4096": {"levels": (8,) * 4, "time_padding": "zeros"},
    "488-32768": {"levels": (8,) * 5, "time_padding": "zeros"},
    "488-262144": {"levels": (8,) * 6, "time_padding": "zeros"},
    "41616-262144": {"levels": (8,) * 6, "time_padding": "zeros"} | _16,
    "noncausal-488-262144": {"levels": (8,) * 6, "time_padding": "both"},
    "noncausal-41616-262144": {"levels": (8,) * 6, "time_padding": "both"} | _16,
    "v1.1-488-32768": {"levels": (8,) * 5, "time_padding": "first"},
    "v1.1-888-32768": {"levels": (8,) * 5, "time_padding": "first"} | _888,
    "v1.1-41616-262144": {"levels": (8,) * 6, "time_padding": "first"} | _16,
}


def official_checkpoint(variant: str) -> str:
    """Return where the authors published the weights of ``variant``."""
    version, _, rest = variant.rpartition("v1.1-")
    name = rest if rest.startswith("noncausal-") else f"causal-{rest}"
    name = "vidtok_fsq_" + name.replace("-", "_")
    folder, suffix = ("vidtok_v1_1/", "_v1_1") if variant != rest else ("", version)
    return f"hf://microsoft/VidTok/checkpoints/{folder}{name}{suffix}.ckpt"
