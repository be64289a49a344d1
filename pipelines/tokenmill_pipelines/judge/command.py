"""What ``tokenmill judge`` does: opens what is named, judges it, writes the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import storage_options
from tokenmill_pipelines.judge.page import write_report
from tokenmill_pipelines.judge.run import judge
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_pipelines.judge.subject import open_subject
from tokenmill_pipelines.judge.verdict import Verdict
from tokenmill_schemas.strict import build


@dataclass(frozen=True, slots=True)
class Asked:
    """The words of a command."""

    tokenizers: tuple[str, ...]
    data: tuple[str, ...]
    view: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Any]
    out: Path


def run(asked: Asked, *, observer: Observer) -> tuple[Verdict, dict[str, str]]:
    """Judge and write the report; returns the verdict, and the paths of the files by their names.

    Raises:
        JobError: something is wrong with what was asked, or nothing could be judged.
    """
    settings = build(Settings, dict(asked.settings), path="judge")
    subject = open_subject(
        asked.tokenizers,
        asked.data,
        view=asked.view,
        overrides=asked.overrides,
        settings=settings,
    )
    with storage_options(subject.job.storage):
        verdict = judge(
            subject.tokenizers,
            subject.operators,
            settings,
            limits=subject.job.limits,
            observer=observer,
        )
    verdict = replace(verdict, data=subject.data)
    return verdict, write_report(verdict, asked.out)
