"""Where a fit's media come from: packages with their versions, and the licences of the assets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tokenmill_pipelines.fit.config import DataConfig, FitJob
from tokenmill_pipelines.fit.gather import Gathered, sources_of
from tokenmill_pipelines.samples.catalogue import find_sample
from tokenmill_pipelines.samples.fetch import RECEIPT
from tokenmill_schemas.asset import refs_of

#: What assets are under whose listing does not say.
UNSTATED = "not stated"


@dataclass(frozen=True, slots=True)
class Origin:
    """One part of a fit's data.

    Attributes:
        name: of the part.
        share: of every batch.
        packages: what it was read from: ``package version (registry)``, or the kind of its source.
        learned: assets that were learned from.
        held_out: assets that were not.
        views: of the assets that were learned from.
        licences: each licence with the numbers of assets learned from and held out, the most
            frequent first.
    """

    name: str
    share: float
    packages: tuple[str, ...]
    learned: int
    held_out: int
    views: int
    licences: tuple[tuple[str, int, int], ...]


def origins(
    job: FitJob, learned: tuple[Gathered, ...], held_out: tuple[Gathered, ...]
) -> tuple[Origin, ...]:
    """Return where each part of a job's data comes from; what was gathered is there already."""
    rows = zip(job.data, job.shares(), learned, held_out, strict=True)
    return tuple(_origin(job, *row) for row in rows)


def assets_of(parts: tuple[Gathered, ...]) -> int:
    """Return how many assets some parts have together, one of several parts once."""
    return len({key for part in parts for key in part.keys})


def _origin(
    job: FitJob, part: DataConfig, share: float, learned: Gathered, held_out: Gathered
) -> Origin:
    known = licences_of(job, part)
    used, kept = ({*gathered.keys} for gathered in (learned, held_out))
    counts = [Counter(known.get(key, UNSTATED) for key in keys) for keys in (used, kept)]
    names = sorted({*counts[0], *counts[1]}, key=lambda name: (-counts[0][name], name))
    return Origin(
        name=part.name,
        share=share,
        packages=packages_of(job, part),
        learned=len(used),
        held_out=len(kept),
        views=len(learned.keys),
        licences=tuple((name, counts[0][name], counts[1][name]) for name in names),
    )


def licences_of(job: FitJob, part: DataConfig) -> dict[str, str]:
    """Return the licence of every asset that a part lists, by key.

    A corpus whose listing has none of an asset has it of the whole corpus.
    """
    found: dict[str, str] = {}
    for name, source, _ in sources_of(job, part):
        whole = find_sample(name).licence if name else UNSTATED
        for batch in source.list():
            for ref in refs_of(batch):
                key = f"{name}/{ref.key}" if name else ref.key
                found[key] = str(ref.columns.get("licence") or whole)
    return found


def packages_of(job: FitJob, part: DataConfig) -> tuple[str, ...]:
    """Return the packages that a part was fetched from, as they were when it was."""
    if part.source is not None:
        return (f"a source of kind {part.source.kind}",)
    found: list[str] = []
    for name in part.corpora:
        registries = {package.name: package.registry for package in find_sample(name).packages}
        receipt = json.loads((Path(job.corpora) / name / RECEIPT).read_text(encoding="utf-8"))
        for package, facts in receipt["packages"].items():
            where = registries.get(package)
            found.append(f"{package} {facts['version']}" + (f" ({where})" if where else ""))
    return tuple(dict.fromkeys(found))
