"""Tiny fits of every kind of network, on pictures, clips and volumes that are made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.fit.config import FitJob, parse_fit_job
from tokenmill_pipelines.fit.gather import Gathered
from tokenmill_pipelines.fit.run import FitResult, run_fit_job

ROOT = Path(__file__).parents[3]
JOBS = ROOT / "pipelines" / "jobs" / "fit"
SAMPLES = ROOT / "pipelines" / "samples"
JobOf = Callable[..., FitJob]

TINY: dict[str, Any] = {
    "encoder_widths": [8, 8],
    "encoder_depths": [1, 0],
    "decoder_widths": [8, 8],
    "decoder_depths": [0, 1],
    "levels": [5, 5, 3],
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Fits here are too small to divide."""
    torch.set_num_threads(1)


def picture(number: int, side: int = 48) -> npt.NDArray[np.uint8]:
    """A smooth picture with an edge, no two alike."""
    rows, columns = np.mgrid[:side, : side + number % 5] / side
    waves = [np.sin(2 + number * 0.7 + k + 4 * rows * (k + 1) + 3 * columns) for k in range(3)]
    light = np.stack(waves, -1) * 60 + 128 + 50 * (columns > 0.2 + 0.02 * number)[..., None]
    return np.asarray(np.clip(light, 0, 255), np.uint8)


def ball(number: int, side: int = 16) -> npt.NDArray[np.bool_]:
    """A lopsided ball, no two alike."""
    x, y, z = np.mgrid[:side, :side, :side] / (side - 1) - 0.5
    found: npt.NDArray[np.bool_] = x**2 + (1 + number % 3) * y**2 + z**2 / (1 + number % 2) < (
        0.1 + 0.01 * number
    )
    return found


def part(name: str, views: list[npt.NDArray[Any]]) -> Gathered:
    """A part of the media, without a file."""
    keys = tuple(f"{name}/{number}" for number in range(len(views)))
    return Gathered(name, f"digest of {name}", keys, tuple(views))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve pictures with a listing, and one of them under another licence."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number in range(12):
        Image.fromarray(picture(number)).save(folder / f"{number:02d}.png")
        licence = "CC0-1.0" if number else "CC-BY-4.0"
        lines.append(json.dumps({"uri": f"{number:02d}.png", "licence": licence}) + "\n")
    (folder / "listing.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def fit_job(pictures: Path, tmp_path: Path) -> JobOf:
    """Makes tiny jobs over the pictures: ``fit_job("a", optimiser={"steps": 4})``."""

    def make(folder: str = "fit", /, **changes: Any) -> FitJob:
        table: dict[str, Any] = {
            "name": "tiny",
            "corpora": str(tmp_path / "corpora"),
            "held_out": 0.3,
            "tried": 3,
            "tokenizer": {"kind": "mill_image", "config": TINY},
            "data": [data("pictures", pictures / "listing.jsonl")],
            "loss": {"psnr": 1.0, "ssim": 0.3},
            "batch": {"size": 2, "side": 32, "short_side": [32, 48]},
            "optimiser": {"steps": 6, "lr": 4e-3, "warmup": 2, "ema": 0.8},
            "output": {
                "uri": str(tmp_path / folder),
                "checkpoint_every": 2,
                "log_every": 1,
                "keep": 9,
            },
        }
        for name, value in changes.items():
            old = table.get(name) if name != "tokenizer" else None
            merge = isinstance(value, dict) and isinstance(old, dict)
            table[name] = {**table[name], **value} if merge else value
        return parse_fit_job(table)

    return make


def data(name: str, listing: Path, **changes: Any) -> dict[str, Any]:
    """A part of a job's data: pictures of a listing."""
    return {
        "name": name,
        "source": {"kind": "jsonl", "urls": [str(listing)]},
        "view": {"kind": "native", "multiple": 1},
        **changes,
    }


def fitted(job: FitJob, *, resume: bool = False) -> FitResult:
    """Fit silently."""
    return run_fit_job(job, observer=SilentObserver(), resume=resume)
