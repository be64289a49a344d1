"""Which frames stand for which output times, and how many frames a clip may have: arithmetic.

Timestamps are integers and rates are fractions, so that a tie is a tie on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

from tokenmill_schemas.errors import AssetError, Reason

#: An output time counts while it is no later than this after the last frame: containers that keep
#: whole milliseconds round two timestamps by half of one each.
TOLERANCE_S = Fraction(1, 1000)
#: A still picture may stand this long; beyond it, timestamps are broken and not repeated over.
MAX_GAP_S = 3600
#: Largest number in a rule for the length of clips: frames are held back by as many.
MAX_RULE = 1024

_RULE = re.compile(r"(?:(\d{1,6})\+)?(\d{1,6})k")


class Timed(Protocol):
    """Anything with a presentation timestamp."""

    @property
    def pts(self) -> int:
        """Presentation timestamp in units of a time base."""
        ...


T = TypeVar("T", bound=Timed)


def as_rate(fps: float) -> Fraction:
    """Return frames per second as the fraction that its decimal form says: 29.97 is 2997/100."""
    return Fraction(repr(fps))


def nearest(frames: Iterable[T], fps: Fraction, time_base: Fraction) -> Iterator[tuple[T, int]]:
    """Yield every frame that is nearest to an output time, and to how many.

    Output time k lies k / ``fps`` seconds after the first frame; of two frames equally near the
    earlier one is taken. The last output time is not after the last frame (but for
    `TOLERANCE_S`). The frame after a yielded one has already been asked for.

    Args:
        frames: with strictly rising timestamps.
        fps: output times per second.
        time_base: seconds of one unit of the timestamps.

    Raises:
        AssetError: ``corrupt``: two frames are more than `MAX_GAP_S` seconds apart.
    """
    # Output k is nearest to frame n or an earlier one while k * step <= the middle of n and n + 1.
    step = 1 / (fps * time_base)
    widest = MAX_GAP_S / time_base
    done, before, first = 0, None, 0
    for frame in frames:
        if before is None:
            before, first = frame, frame.pts
            continue
        if frame.pts - before.pts > widest:
            gap_s = float((frame.pts - before.pts) * time_base)
            text = f"timestamps jump by {gap_s:.1f} s after {float(before.pts * time_base):.3f} s"
            raise AssetError(Reason.CORRUPT, text, stage="decode")
        through = _through(before.pts + frame.pts - 2 * first, 2 * step)
        if through > done:
            yield before, through - done
        done, before = through, frame
    if before is not None:
        through = _through(before.pts - first + TOLERANCE_S / time_base, step)
        if through > done:
            yield before, through - done


def _through(distance: int | Fraction, step: Fraction) -> int:
    """Return how many multiples of ``step``, with zero, are at most ``distance``."""
    return distance * step.denominator // step.numerator + 1


@dataclass(frozen=True, slots=True)
class Lengths:
    """The frame counts first, first + step, first + 2 step, ..."""

    first: int
    step: int

    def down(self, frames: int) -> int:
        """Return the largest allowed count that is at most ``frames``; 0 if there is none."""
        if frames < self.first:
            return 0
        return frames - (frames - self.first) % self.step

    def up(self, frames: int) -> int:
        """Return the smallest allowed count that is at least ``frames``."""
        return max(self.first, frames + (self.first - frames) % self.step)


def as_lengths(rule: str) -> Lengths:
    """Return what ``any``, ``bk`` (b, 2b, ...) or ``a+bk`` (a, a + b, ...) allows.

    Causal video tokenizers take 1+4k or 1+8k frames, others groups: 4k, 16k.

    Raises:
        ValueError: it is not of that form.
    """
    if rule == "any":
        return Lengths(1, 1)
    parts = _RULE.fullmatch(rule)
    if parts is not None:
        step = int(parts[2])
        first = int(parts[1] or step)
        if 0 < first <= MAX_RULE and 0 < step <= MAX_RULE:
            return Lengths(first, step)
    raise ValueError(
        f"frames_rule is 'any', 'bk' or 'a+bk' with a and b of 1 to {MAX_RULE}, such as '16k' or "
        f"'1+8k'; got {rule!r}"
    )
