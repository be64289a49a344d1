"""The page and the card: one record, the same figures, and nothing that breaks out of either."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest
from tests.pipelines.fit.conftest import JobOf

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.fit import facts
from tokenmill_pipelines.fit.card import write_card
from tokenmill_pipelines.fit.page import write_page
from tokenmill_pipelines.fit.record import FitRecord
from tokenmill_pipelines.fit.run import STAGES, open_fit_run
from tokenmill_pipelines.judge import Failure
from tokenmill_pipelines.train.checkpoint import Leg

HOSTILE = "<script>alert(1)</script>|`*_x_"


@pytest.fixture
def record(fit_job: JobOf) -> FitRecord:
    """What a tiny fit came to."""
    run = open_fit_run(fit_job(optimiser={"steps": 2}), SilentObserver(), resume=False)
    for _, stage in STAGES:
        stage(run)
    assert run.record is not None
    return run.record


def both(record: FitRecord) -> tuple[str, str]:
    """The page and the card."""
    return write_page(record).decode(), write_card(record).decode()


def test_every_figure_of_the_card_is_on_the_page(record: FitRecord) -> None:
    """Both are written from the same tables."""
    page, card = both(record)
    tables = [facts.score_table, facts.data_table, facts.licence_table]
    for table in tables:
        for row in table(record).rows:
            assert f"| {' | '.join(row)} |" in card
            assert all(f">{html.escape(value)}</td>" in page for value in row)
    for _, value in (*facts.what(record), *facts.how(record)):
        assert value in card
        assert html.escape(value) in page


def test_names_that_others_chose_are_text_in_both(record: FitRecord) -> None:
    """Of assets, licences and packages."""
    (origin,), (part,) = record.origins, record.trial.parts
    origin = replace(origin, packages=(HOSTILE,), licences=((HOSTILE, 1, 2),))
    shown = tuple(replace(one, key=HOSTILE) for one in part.shown)
    trial = replace(record.trial, parts=(replace(part, shown=shown, name=HOSTILE),))
    page, card = both(replace(record, origins=(origin,), trial=trial))
    assert "<script" not in page
    assert "<script" not in card
    assert "alert(1)&lt;/script&gt;\\|\\`\\*\\_x\\_ | 1 | 2 |" in card
    assert page.count("&lt;script&gt;") >= 5


def test_an_unfinished_fit_says_so_and_legs_are_added_up(record: FitRecord) -> None:
    """Time and processor time are those of all stretches."""
    legs = (Leg(0, 1, 1, 3000.0, 2000.0), Leg(1, 2, 1, 4200.0, 1600.0))
    job = replace(record.job, optimiser=replace(record.job.optimiser, steps=9))
    page, card = both(replace(record, job=job, progress=record.progress.after(legs=legs)))
    assert card.startswith("# tiny: model card (unfinished)")
    assert "2 of 9 steps" in page
    for text in ("2 h 0 min", "1 h 0 min"):
        assert text in card
        assert text in page
    assert "0 to 1" in page
    assert "1 to 2" in page
    assert "2 steps, done" in write_page(record).decode()


def test_assets_that_failed_are_counted(record: FitRecord) -> None:
    """Among the limits."""
    (part,) = record.trial.parts
    scores = replace(part.scores, failures=(Failure("a", "encode_failed", "why"),))
    trial = replace(record.trial, parts=(replace(part, scores=scores),))
    said = facts.limits(replace(record, trial=trial))
    assert any(text.startswith("1 held-out assets could not") for text in said)
    lowest = min(one.values["psnr_db"] for one in part.shown)
    assert f"{lowest:.2f} dB" in said[1]


def test_secrets_of_a_job_are_not_on_the_page(record: FitRecord) -> None:
    """A URL may have some."""
    output = replace(record.job.output, uri="https://user:hunter2@host/x?token=abcdef")
    page, card = both(replace(record, job=replace(record.job, output=output)))
    for secret in ("hunter2", "abcdef"):
        assert secret not in page
        assert secret not in card
    assert str(Path(record.weights.address).parent) not in card
