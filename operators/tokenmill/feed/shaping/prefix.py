"""Nested prefixes: show only the first k tokens, k drawn anew for every step or sample.

FlexTok (arXiv:2502.13967: uniform, powers of two, and uniform rounded up to a power of two),
One-D-Piece (arXiv:2501.10064: tail drop, uniform), Semanticist (arXiv:2503.08685: nested
classifier-free guidance over slots), after nested dropout (Rippel et al., arXiv:1402.0915). D-AR
(arXiv:2505.23660) and ResTok decode whole groups: `multiple_of` and `among`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Ids, drawn, problem, rows_of, stacked
from tokenmill_schemas.tokens import Stream

Rule = Literal["uniform", "pow2", "uniform_pow2", "fixed", "among"]


@dataclass(frozen=True, slots=True)
class KeepPrefix:
    """Keeps the first k positions of a stream ``[n, *tail]``.

    Papers: FlexTok (arXiv:2502.13967), One-D-Piece (arXiv:2501.10064), Semanticist
    (arXiv:2503.08685).

    With ``per_sample`` False all samples of a step, on all ranks, keep the same k, and the stream
    is cut: ``[B, k, *tail]``. With it each has its own: the stream stays ``[B, n, *tail]`` with
    ``pad`` behind the prefix, and ``"<name>.mask"`` bool[B, n] says what was kept. Both give
    ``"<name>.length"`` int64[B].

    Attributes:
        name: the stream.
        rule: ``uniform`` in [low, high]; ``pow2`` a power of two in there, all alike;
            ``uniform_pow2`` uniform, rounded up to a power of two; ``fixed`` always ``high``;
            ``among`` one of ``lengths``.
        low, high: shortest and longest prefix. `of` takes them from a stream.
        multiple_of: for ``uniform``, the size of groups that decode together: whole groups are
            kept.
        lengths: for ``among``.
        per_sample: whether each sample draws its own.
        pad: what stands behind a sample's own prefix.
    """

    name: str
    rule: Rule
    low: int
    high: int
    multiple_of: int = 1
    lengths: tuple[int, ...] = ()
    per_sample: bool = False
    pad: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise problem(
                f"a prefix of {self.name!r} is kept from {self.low} to {self.high} tokens"
            )
        if self.multiple_of < 1 or self.high % self.multiple_of:
            raise problem(f"{self.high} tokens are no multiple of {self.multiple_of}")
        if self.multiple_of > 1 and self.rule != "uniform":
            raise problem(f"rule {self.rule!r} keeps no multiples of {self.multiple_of}")
        if self.rule == "among" and not self.lengths:
            raise problem("rule 'among' needs lengths")
        if any(not self.low <= n <= self.high for n in self.lengths):
            raise problem(f"lengths {self.lengths} must be in [{self.low}, {self.high}]")
        if self.rule == "pow2" and not self._powers():
            raise problem(f"there is no power of two in [{self.low}, {self.high}]")

    @classmethod
    def of(cls, stream: Stream, rule: Rule, **settings: Any) -> KeepPrefix:
        """Return the transform for a stream: prefixes from its shortest that decodes to all of it.

        Raises:
            JobError: only whole samples of this stream decode, or their length varies.
        """
        if not stream.min_prefix:
            raise problem(f"only whole samples of {stream.name!r} decode: it has no min_prefix")
        if stream.positions is None:
            raise problem(f"the length of {stream.name!r} varies")
        limits: dict[str, Any] = {"low": stream.min_prefix, "high": stream.positions} | settings
        if limits["low"] < stream.min_prefix or limits["high"] > stream.positions:
            raise problem(
                f"prefixes of {stream.name!r} have {stream.min_prefix} to {stream.positions} tokens"
            )
        return cls(stream.name, rule, **limits)

    def lengths_of(self, draw: Draw) -> Ids:
        """Return the lengths int64[rows] that are kept, or int64[1] for all samples alike."""
        draw = drawn(draw, not self.per_sample)
        name = f"prefix/{self.name}"
        if self.rule == "fixed":
            kept = np.full(draw.rows, self.high)
        elif self.rule in ("pow2", "among"):
            choices = np.array(self._powers() if self.rule == "pow2" else self.lengths)
            kept = choices[draw.integers(name, len(choices))[:, 0]]
        else:
            # Whole groups, each number of them alike: not the first group once in a while.
            step = self.multiple_of
            first, last = -(-self.low // step), self.high // step
            kept = step * (first + draw.integers(name, last - first + 1)[:, 0])
        if self.rule == "uniform_pow2":
            kept = 1 << np.ceil(np.log2(kept)).astype(np.int64)
        return np.asarray(np.minimum(kept, self.high), np.int64)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Cut or mask the stream.

        Raises:
            JobError: it has fewer than ``high`` positions.
        """
        values = stacked(batch, self.name)
        rows = rows_of(values, draw, self.name)
        if values.shape[1] < self.high:
            raise problem(f"{self.name!r} has {values.shape[1]} positions, fewer than {self.high}")
        kept = self.lengths_of(draw)
        if not self.per_sample:
            cut = values[:, : int(kept[0])]
            return {**batch, self.name: cut, f"{self.name}.length": np.repeat(kept, rows)}
        mask = np.arange(values.shape[1]) < kept[:, None]
        wide = mask.reshape(*mask.shape, *(1,) * (values.ndim - 2))
        shown = np.where(wide, values, np.asarray(self.pad, values.dtype))
        new = {self.name: shown, f"{self.name}.mask": mask, f"{self.name}.length": kept}
        return {**batch, **new}

    def _powers(self) -> list[int]:
        powers = (1 << bit for bit in range(self.high.bit_length()))
        return [power for power in powers if self.low <= power <= self.high]
