"""Fits from beginning to end, of every network: weights, scores, page and card."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tests.pipelines.cli.conftest import call
from tests.pipelines.fit.conftest import JOBS, SAMPLES, TINY, JobOf, fitted

from tokenmill.plugins import open_operator
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.fit import page
from tokenmill_pipelines.fit.config import read_fit_job
from tokenmill_pipelines.fit.run import FitResult, open_fit_run, report_stage
from tokenmill_pipelines.fit.trying import Shown
from tokenmill_pipelines.fit.weights import job_digest
from tokenmill_schemas.errors import JobError

CLIPS = {
    "name": "clips",
    "source": {"kind": "jsonl", "urls": [str(SAMPLES / "videos.jsonl")]},
    "exclude": ["videos/bad/", "videos/made/"],
    "view": {"kind": "clips", "size": 32, "frames": 5, "max_clips": 1},
}
SOLIDS = {
    "name": "solids",
    "source": {"kind": "jsonl", "urls": [str(SAMPLES / "shapes.jsonl")]},
    "exclude": ["shapes/bad/", "shapes/hard/"],
    "view": {"kind": "voxels", "resolution": 16, "fill": "solid"},
}
PREFIX = {
    "levels": [5, 5, 3],
    "side": 32,
    "count": 32,
    "encoder_widths": [8, 8, 12],
    "encoder_depths": [0, 0, 0],
    "decoder_widths": [12, 8, 8],
    "decoder_depths": [0, 0, 0],
    "groups": 4,
}
VIDEO = {"picture": TINY, "fine_width": 8, "width": 8, "encoder_depth": 1, "decoder_depth": 1}
SHAPE = {"levels": [5, 5, 3], "fine_width": 8, "coarse_width": 8, "decoder_depth": 1}


def fitting(fit_job: JobOf, kind: str, **changes: Any) -> Any:
    """A tiny job of a kind of tokenizer."""
    jobs: dict[str, dict[str, Any]] = {
        "mill_image": {},
        "mill_prefix": {"tokenizer": {"kind": kind, "config": PREFIX}},
        "mill_video": {
            "tokenizer": {"kind": kind, "config": VIDEO, "checkpoint": "random:0"},
            "data": [CLIPS, *fit_data(fit_job)],
            "batch": {"frames": 5},
            "tried": 4,
            "held_out": 0.5,
        },
        "mill_shape": {
            "tokenizer": {"kind": kind, "config": SHAPE},
            "data": [SOLIDS],
            "loss": {"psnr": 0, "ssim": 0, "bce": 4.0, "overlap": 1.0},
        },
    }
    return fit_job(kind, **{**jobs[kind], **changes})


def fit_data(fit_job: JobOf) -> list[dict[str, Any]]:
    """The pictures of ``fit_job`` as a part of another job's data."""
    source = fit_job().data[0].source
    assert source is not None
    section = {"kind": source.kind, **source.options}
    return [{"name": "pictures", "source": section, "view": {"kind": "native", "multiple": 1}}]


MEASURE = {"mill_shape": "iou"}


@pytest.mark.parametrize("kind", ["mill_image", "mill_prefix", "mill_video", "mill_shape"])
def test_a_fit_leaves_weights_that_jobs_can_use_and_says_how_good_they_are(
    fit_job: JobOf, kind: str
) -> None:
    """Each network learns its own view; scores, page and card tell of the file that is there."""
    job = fitting(fit_job, kind)
    result = fitted(job)
    data = Path(result.weights).read_bytes()
    assert hashlib.sha256(data).hexdigest() == result.sha256
    assert len(data) == result.weights_bytes
    assert 0 < result.tried <= job.tried
    assert set(result.scores) <= {part.name for part in job.data}
    for scores in result.scores.values():
        assert math.isfinite(scores[MEASURE.get(kind, "psnr_db")])
        assert scores["bits_per_unit"] > 0
    options = {"config": dict(job.tokenizer.options["config"]), "checkpoint": result.weights}
    tokenizer: Any = open_operator("tokenmill.tokenizers", kind, options, path="tokenizer")
    encoder = tokenizer.load("cpu")
    shape = {"mill_shape": (1, 16, 16, 16), "mill_video": (1, 5, 32, 32, 3)}
    views = np.zeros(shape.get(kind, (1, 32, 32, 3)), bool if kind == "mill_shape" else np.uint8)
    decoded = encoder.decode(encoder.encode(encoder.preprocess(views)))
    assert np.asarray(decoded).shape == views.shape
    encoder.close()
    card, text = Path(result.card).read_text(), Path(result.report).read_text()
    for said in (result.sha256, "seed 0", *result.scores):
        assert said in card
        assert said in text
    assert ("Of beginnings of the ids" in card) == (kind == "mill_prefix")
    assert text.count('alt="reconstruction"') == result.tried
    assert "http" not in text.replace("http-equiv", "")


def test_weights_name_the_job_and_are_the_same_bytes_from_every_run(fit_job: JobOf) -> None:
    """Whoever writes them; other seeds give others."""
    job = fit_job("one")
    one, again = fitted(job), fitted(fit_job("again"))
    assert Path(one.weights).read_bytes() == Path(again.weights).read_bytes()
    assert fitted(fit_job("other", seed=1)).sha256 != one.sha256
    with safe_open(one.weights, "pt") as file:
        about = json.loads(file.metadata()["tokenmill"])
    assert about == {"name": "tiny", "job": job_digest(job)}


def test_a_finished_fit_is_written_again_without_learning(fit_job: JobOf) -> None:
    """Resumed with nothing left: the same weights and scores, another report; what was lost is."""
    job = fit_job()
    first = fitted(job)
    Path(first.weights).write_bytes(b"lost")
    again = fitted(job, resume=True)
    assert again.resumed_from == 6
    assert (again.sha256, again.scores) == (first.sha256, first.scores)
    assert hashlib.sha256(Path(again.weights).read_bytes()).hexdigest() == first.sha256
    assert again.report != first.report
    assert again.legs == first.legs
    assert Path(first.report).exists()


def test_the_card_counts_assets_and_licences_and_says_nothing_of_the_machine(
    fit_job: JobOf, tmp_path: Path
) -> None:
    """What it is, what of, how good, how it is made again, and a place for what is judged."""
    result = fitted(fit_job(licence="Apache-2.0"))
    card = Path(result.card).read_text()
    assert card.startswith("# tiny: model card\n")
    learned, held_out = re.findall(r"\| pictures \| CC0-1\.0 \| (\d+) \| (\d+) \|", card)[0]
    assert int(learned) + int(held_out) == 11
    learned, whole = re.findall(r"Learned from (\d+) of (\d+) assets", card)[0]
    assert int(learned) < int(whole) == 12
    assert re.search(r"\| pictures \| CC-BY-4\.0 \| [01] \| [01] \|", card)
    for said in ("**licence**: Apache-2.0", "tokenmill fit tiny.toml", "## Judged", "## Limits"):
        assert said in card
    assert f"{result.parameters:,}, all learned here" in card
    assert f"tiny.safetensors, {result.weights_bytes:,} bytes" in card
    assert f"| {result.scores['pictures']['psnr_db']:.2f} dB |" in card
    assert str(tmp_path) not in card
    assert "/tmp" not in card


def test_the_page_has_curves_legs_and_the_job(fit_job: JobOf) -> None:
    """And is one file."""
    text = Path(fitted(fit_job()).report).read_text()
    assert text.count("<polyline") == 4
    assert "0 to 6" in text
    assert "&#34;short_side&#34;" in text
    assert text.count("data:image/png;base64,") == 9


def test_a_fit_of_weights_that_others_began_trains_only_what_is_its_own(fit_job: JobOf) -> None:
    """The picture part of a clip tokenizer stays what it was."""
    result = fitted(fitting(fit_job, "mill_video"))
    card = Path(result.card).read_text()
    assert re.search(r"\*\*parameters\*\*: [\d,]+, [\d,]+ learned here", card)
    config = {"config": VIDEO, "checkpoint": "random:0"}
    tokenizer: Any = open_operator("tokenmill.tokenizers", "mill_video", config, path="tokenizer")
    network = tokenizer.network()
    tokenizer.weights.load_into(network)
    with safe_open(result.weights, "np") as file:
        for name, value in network.state_dict().items():
            same = np.array_equal(file.get_tensor(name), value.half().numpy())
            assert same == name.startswith("picture.") or not value.any(), name


def test_held_out_pictures_are_shown_with_where_they_differ() -> None:
    """Differences are enlarged and never wrap."""
    one = np.array([[[0, 100, 250]]], np.uint8)
    other = np.array([[[10, 0, 255]]], np.uint8)
    shown = list(page.strip("image", Shown("a", one, other, {})))
    assert shown[2].tolist() == [[[40, 255, 20]]]
    clip = np.zeros((5, 4, 6, 3), np.uint8)
    assert [p.shape for p in page.strip("clip", Shown("a", clip, clip, {}))] == [(12, 6, 3)] * 3


def test_without_what_draws_volumes_the_page_has_no_pictures(
    fit_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written all the same."""
    monkeypatch.setattr("tokenmill_pipelines.fit.page.strip", _no_renderer)
    result = fitted(fitting(fit_job, "mill_shape"))
    assert "<img" not in Path(result.report).read_text()


def _no_renderer(*_: object) -> None:
    raise ImportError("No module named 'embreex'")


def test_stages_out_of_order_are_refused(fit_job: JobOf) -> None:
    """By what is missing."""
    run = open_fit_run(fit_job(), SilentObserver(), resume=False)
    with pytest.raises(JobError, match="have not been tried"):
        report_stage(run)


def test_nothing_held_out_is_told(fit_job: JobOf) -> None:
    """After learning, whose checkpoints are kept."""
    with pytest.raises(JobError, match="held_out: no asset was held out"):
        fitted(fit_job(held_out=1e-9))


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ({"kind": "patch_vq"}, "has no network that could learn"),
        ({"kind": "llamagen", "checkpoint": "random:0", "config": {"ch": 32}}, "no lesson"),
    ],
)
def test_a_tokenizer_that_does_not_learn_here_is_refused(
    fit_job: JobOf, tokenizer: dict[str, Any], said: str
) -> None:
    """It names the kind's key."""
    with pytest.raises(JobError, match=said):
        fitted(fit_job(tokenizer=tokenizer))


def test_the_example_job_learns_the_sample_corpus(tmp_path: Path) -> None:
    """As it is but for its length: the loss falls, and every held-out picture is shown."""
    sets = (f"output.uri={tmp_path / 'out'}", f"corpora={tmp_path}", "optimiser.steps=30")
    result = fitted(read_fit_job(JOBS / "samples.toml", overrides=(*sets, "batch.size=4")))
    assert result.loss < result.first_loss - 0.2
    assert result.scores["pictures"]["psnr_db"] > 8
    card = Path(result.card).read_text()
    assert "| pictures | public domain |" in card or "| pictures | CC0-1.0 |" in card


def test_the_command_says_what_came_out(tmp_path: Path) -> None:
    """For people, and one JSON document for scripts."""
    sets = (f"output.uri={tmp_path / 'out'}", f"corpora={tmp_path}", "optimiser.steps=2")
    words = [word for text in (*sets, "batch.size=2") for word in ("--set", text)]
    said = call("fit", str(JOBS / "samples.toml"), *words)
    assert said.code == 0, said.err
    flat = said.out.replace("\n", "")
    for word in ("psnr_db", "samples.safetensors", "samples.md", "reports"):
        assert word in flat
    document = call("fit", str(JOBS / "samples.toml"), *words, "--resume", "--json").document()
    assert document["resumed_from"] == 2
    assert set(document) == set(FitResult.__slots__)


def test_a_judged_corpus_is_bad_usage(tmp_path: Path, pictures: Path) -> None:
    """Exit code 2, and nothing was fetched."""
    part = "data=[{name='a', corpora=['gnome-backgrounds'], view={kind='native'}}]"
    said = call(
        "fit", str(JOBS / "samples.toml"), "--set", part, "--set", f"corpora={tmp_path / 'c'}"
    )
    assert said.code == 2
    assert "kept for judging" in said.err
    assert not (tmp_path / "c").exists()
