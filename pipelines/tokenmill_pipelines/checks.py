"""What a run's receipts say of its shards before they are committed, held against its limits.

Pure functions of receipts, of the sums of the version before, and of a job's limits; see
schemas/decisions/019-checks-before-a-commit.md for why it is these figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenmill_schemas.entropy import GROUPS, Entropy, EntropySums, combine, entropy_of
from tokenmill_schemas.limits import LimitsConfig
from tokenmill_schemas.snapshot import Receipt

#: Shards, and samples of each, that a message names.
NAMED = 3
#: What is measured: the limit's key, how the figure is called, its format and unit.
METRICS = {
    "psnr_db": ("min_psnr_db", "PSNR", "{:.2f} dB"),
    "iou": ("min_iou", "IoU", "{:.4f}"),
}
KEPT = (
    "nothing was committed, and the shards are kept: run again with another limit to commit them "
    "as they are"
)


@dataclass(frozen=True, slots=True)
class Shard:
    """The round trip of a shard: figures and errors of samples, and how many were passed over."""

    unit_id: str
    path: str
    figures: tuple[tuple[str, float], ...]
    errors: tuple[tuple[str, str], ...] = ()
    passed_over: int = 0

    @property
    def mean(self) -> float | None:
        """The mean of its samples' figures; None without any."""
        values = [value for _, value in self.figures]
        return round(sum(values) / len(values), 4) if values else None


@dataclass(frozen=True, slots=True)
class Moved:
    """The entropy of a stream by groups of ``size`` samples: of a run's shards, and before it."""

    stream: str
    size: int
    now: Entropy
    before: Entropy

    @property
    def drift_bits(self) -> float | None:
        """By how many bits an id it moved; None where one of the two is not known."""
        if not (self.now.groups and self.before.groups):
            return None
        return self.now.mean_bits - self.before.mean_bits


@dataclass(frozen=True, slots=True)
class Checks:
    """What is known of a run's shards.

    ``metric`` is a key of `METRICS`, "" if nothing was measured; ``shards`` are those that were,
    ``unasked`` the paths of those for which nobody had asked when they were made. ``base`` is the
    number of the version that the entropies before are of, 0 if there is none.
    """

    metric: str = ""
    shards: tuple[Shard, ...] = ()
    unasked: tuple[Shard, ...] = ()
    moved: tuple[Moved, ...] = ()
    base: int = 0

    @property
    def means(self) -> list[tuple[float, Shard]]:
        """The shards that have a mean, the worst first."""
        known = [(shard.mean, shard) for shard in self.shards]
        return sorted(((m, s) for m, s in known if m is not None), key=lambda one: one[0])

    @property
    def mean(self) -> float | None:
        """The mean over all measured samples."""
        values = [value for shard in self.shards for _, value in shard.figures]
        return sum(values) / len(values) if values else None


def checks_of(receipts: Iterable[Receipt], before: EntropySums, base: int) -> Checks:
    """Return what ``receipts`` say, beside the sums ``before`` of version ``base``."""
    made = [receipt for receipt in receipts if receipt.samples]
    asked = [receipt for receipt in made if receipt.checks]
    now = combine(*(receipt.entropy for receipt in made))
    streams = dict.fromkeys((*now, *before)) if now else {}
    moved = (
        Moved(stream, size, entropy_of(now, stream, size), entropy_of(before, stream, size))
        for stream in streams
        for size in GROUPS
    )
    return Checks(
        metric=asked[0].checks["metric"] if asked else "",
        shards=tuple(map(_shard, asked)),
        unasked=tuple(_shard(receipt) for receipt in made if not receipt.checks),
        moved=tuple(each for each in moved if each.now.groups or each.before.groups),
        base=base,
    )


def _shard(receipt: Receipt) -> Shard:
    samples = receipt.checks.get("samples", ())
    return Shard(
        receipt.unit_id,
        receipt.path,
        tuple((s["sample_id"], float(s["figure"])) for s in samples if "figure" in s),
        tuple((s["sample_id"], str(s["error"])) for s in samples if "error" in s),
        int(receipt.checks.get("passed_over", 0)),
    )


def said(metric: str, value: float) -> str:
    """Return a figure as people read it."""
    return METRICS[metric][2].format(value)


def limit_of(limits: LimitsConfig, metric: str) -> float:
    """Return the least mean that a shard may have, 0 for no limit."""
    return float(getattr(limits, METRICS[metric][0])) if metric else 0.0


def breaches(checks: Checks, limits: LimitsConfig) -> list[str]:
    """Return what breaks the limits, in one sentence each; none is broken without any."""
    found = [_moved(moved, checks.base, limits) for moved in checks.moved]
    wanted = next((m for m in METRICS if limit_of(limits, m)), "")
    if wanted:
        found = [_below(checks, limits), _undecoded(checks), _unasked(checks, wanted), *found]
    return [text for text in found if text]


def _below(checks: Checks, limits: LimitsConfig) -> str:
    limit = limit_of(limits, checks.metric)
    low = [(mean, shard) for mean, shard in checks.means if mean < limit]
    if not low:
        return ""
    key, name, _ = METRICS[checks.metric]
    worst = "; ".join(_named(checks.metric, mean, shard) for mean, shard in low[:NAMED])
    more = f"; and {len(low) - NAMED} more" if len(low) > NAMED else ""
    return (
        f"{len(low)} of {len(checks.shards)} shards decode to a mean {name} below limits.{key} = "
        f"{limit:g}: {worst}{more}"
    )


def _named(metric: str, mean: float, shard: Shard) -> str:
    worst = sorted(shard.figures, key=lambda one: one[1])[:NAMED]
    samples = ", ".join(f"{name} {said(metric, value)}" for name, value in worst)
    return f"{shard.path} {said(metric, mean)} ({samples})"


def _undecoded(checks: Checks) -> str:
    failed = [(shard, *error) for shard in checks.shards for error in shard.errors]
    if not failed:
        return ""
    some = "; ".join(f"{name} of {shard.path}: {text}" for shard, name, text in failed[:NAMED])
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    return f"{len(failed)} samples could not be held against their views: {some}{more}"


def _unasked(checks: Checks, metric: str) -> str:
    """Say which shards no figure is known of: a limit that is set must hold for all."""
    if not checks.unasked:
        return ""
    some = ", ".join(f"receipts/{shard.unit_id}.json" for shard in checks.unasked[:NAMED])
    more = f" and {len(checks.unasked) - NAMED} more" if len(checks.unasked) > NAMED else ""
    return (
        f"{len(checks.unasked)} shards were made by a run that did not measure them; delete "
        f"{some}{more} to have them made again, or set limits.{METRICS[metric][0]} = 0"
    )


def _moved(moved: Moved, base: int, limits: LimitsConfig) -> str:
    allowed, drift = limits.max_entropy_drift, moved.drift_bits
    if not allowed or drift is None or abs(drift) <= allowed:
        return ""
    return (
        f"ids of stream {moved.stream!r} have an entropy of {_bits(moved.now)} in "
        f"{group(moved.size)}, of {_bits(moved.before)} in snapshot {base}: {abs(drift):.3f} bits "
        f"an id {'more' if drift > 0 else 'less'}, beyond limits.max_entropy_drift = {allowed:g}"
    )


def _bits(entropy: Entropy) -> str:
    """Return a mean with its standard error, if that is known."""
    error = f" ± {entropy.error_bits:.3f}" if entropy.error_bits else ""
    return f"{entropy.mean_bits:.3f}{error} bits"


def group(size: int) -> str:
    """Return what an entropy is of."""
    return "a sample" if size == 1 else f"{size} samples"


def silences(checks: Checks, limits: LimitsConfig) -> Iterator[str]:
    """Yield what could not be checked though the job asks for it."""
    if limits.check_samples and checks.unasked:
        yield (
            f"no sample of {len(checks.unasked)} shards was decoded again: the run that made them "
            "did not ask for it, or this tokenizer's tokens cannot be measured"
        )
    passed = sum(shard.passed_over for shard in checks.shards)
    if passed:
        yield f"{passed} views were too large to be decoded again"
    bare = [shard.path for shard in checks.shards if not (shard.figures or shard.errors)]
    if bare:
        yield f"no sample of {len(bare)} shards could be measured, such as {bare[0]}"
    if limits.max_entropy_drift and checks.moved and checks.base and not _comparable(checks.moved):
        yield f"snapshot {checks.base} keeps no entropy to compare with: an older library made it"


def _comparable(moved: Sequence[Moved]) -> bool:
    return any(each.drift_bits is not None for each in moved)


def summary(checks: Checks, limits: LimitsConfig) -> dict[str, Any]:
    """Return the figures as a JSON value, for a run's result."""
    return {
        "round_trip": round_trip(checks, limits) if checks.metric else {},
        "entropy": [entropy(moved) for moved in checks.moved],
        "max_entropy_drift": limits.max_entropy_drift,
    }


def round_trip(checks: Checks, limits: LimitsConfig) -> dict[str, Any]:
    """Return what samples decode to, flat, for a log's event too; ``worst`` is a shard's mean."""
    worst = checks.means[0] if checks.means else None
    return {
        "metric": checks.metric,
        "shards": len(checks.shards),
        "samples": sum(len(shard.figures) for shard in checks.shards),
        "mean": _rounded(checks.mean),
        "worst": _rounded(worst[0]) if worst else None,
        "worst_shard": worst[1].path if worst else "",
        "limit": limit_of(limits, checks.metric),
        "passed_over": sum(shard.passed_over for shard in checks.shards),
        "errors": sum(len(shard.errors) for shard in checks.shards),
    }


def entropy(moved: Moved) -> dict[str, Any]:
    """Return how varied a stream's ids are, now and before, flat; bits per id, different ids."""
    now, before = moved.now, moved.before
    return {
        "stream": moved.stream,
        "samples": moved.size,
        "bits": _rounded(now.mean_bits) if now.groups else None,
        "bits_before": _rounded(before.mean_bits) if before.groups else None,
        "drift": _rounded(moved.drift_bits),
        "ids": _rounded(now.mean_ids) if now.groups else None,
        "ids_before": _rounded(before.mean_ids) if before.groups else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
