"""The weights that ship: their cards' figures and some ids of theirs, found anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipelines.cli.conftest import call

from tokenmill.plugins import open_operator
from tokenmill.tokenizers.mill_weights import FOLDER, shipped
from tokenmill_pipelines.fit.config import read_fit_job
from tokenmill_pipelines.fit.weights import job_digest
from tokenmill_schemas.canonical import digest_bytes

GOLDEN = Path(__file__).parent
JOBS = GOLDEN.parents[1] / "pipelines" / "jobs" / "fit"
#: A row of a card's section "Judged" about a folder that lies here.
ROW = re.compile(r"^\| `tests/golden/(\w+)` \| (.+) \|$", re.MULTILINE)
SKIPPED = [f"--skip={part}" for part in ("codecs", "prefixes", "perturbed", "text", "faces")]
#: Options of each shipped tokenizer.
TOKENIZERS = {
    "mill_image_f8": ("mill_image", {"variant": "f8"}),
    "mill_image_f16": ("mill_image", {"variant": "f16"}),
    "mill_prefix": ("mill_prefix", {}),
    "mill_shape": ("mill_shape", {}),
    "mill_video": ("mill_video", {}),
}
DATA = {"mill_shape": "judged_shapes", "mill_video": "judged_clips"}
#: What one step of a sum in another order may change: an id in some hundreds.
FLIPS = 0.01


def sets_of(name: str) -> list[str]:
    """The command line's options of a tokenizer."""
    return [f"--set=tokenizer.{key}={value}" for key, value in TOKENIZERS[name][1].items()]


def judged(name: str, out: Path, *args: str) -> dict[str, Any]:
    """What the judge says of a tokenizer on the small set for it."""
    data = GOLDEN / DATA.get(name, "judged") / "listing.jsonl"
    kind = TOKENIZERS[name][0]
    outcome = call(
        *("judge", kind, *sets_of(name), "--data", str(data), *args),
        *("--out", str(out / "judge"), "--json"),
    )
    (found,) = outcome.document()["tokenizers"]
    return dict(found)


def test_every_card_tells_the_bytes_of_its_weights() -> None:
    """The sha256 that stands in a card is that of the file beside it."""
    cards = list(FOLDER.glob("mill_*.md"))
    assert {card.stem for card in cards} == set(TOKENIZERS)
    assert {file.stem for file in FOLDER.glob("mill_*.safetensors")} == set(TOKENIZERS)
    for card in cards:
        told = re.search(r"\*\*sha256\*\*: ([0-9a-f]{64})", card.read_text(encoding="utf-8"))
        assert told is not None, card.name
        assert told[1] == digest_bytes([card.with_suffix(".safetensors").read_bytes()]), card.name


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_job_beside_is_the_one_that_made_the_weights(name: str) -> None:
    """The digest of its settings stands in the card."""
    job = read_fit_job(JOBS / f"{name}.toml")
    card = shipped(name).with_suffix(".md").read_text(encoding="utf-8")
    assert f"**job's sha256**: {job_digest(job)}" in card


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_judge_gives_the_figures_of_the_card(name: str, tmp_path: Path) -> None:
    """On assets that nothing was learned from; another machine may differ a little."""
    card = shipped(name).with_suffix(".md").read_text(encoding="utf-8")
    ((folder, cells),) = ROW.findall(card)
    assert folder == DATA.get(name, "judged")
    views, mean, median, *others = [cell.split()[0] for cell in cells.split(" | ")]
    found = judged(name, tmp_path, *SKIPPED)
    main, near = ("iou", 0.002) if name == "mill_shape" else ("psnr_db", 0.02)
    assert found["views"] == int(views) == len(list((GOLDEN / folder).iterdir())) - 1
    assert found["figures"][main]["mean"] == pytest.approx(float(mean), abs=near)
    assert found["figures"][main]["median"] == pytest.approx(float(median), abs=near)
    if main == "psnr_db":
        assert found["figures"]["ssim"]["mean"] == pytest.approx(float(others[0]), abs=0.002)


def test_a_longer_prefix_is_a_better_picture(tmp_path: Path) -> None:
    """The PSNR rises with every doubling, from 16 to 128 ids."""
    skipped = [one for one in SKIPPED if not one.endswith("prefixes")]
    points = judged("mill_prefix", tmp_path, *skipped)["prefixes"]
    assert [point["setting"] for point in points] == [16, 32, 64, 128]
    psnr = [point["psnr_db"] for point in points]
    assert psnr == sorted(set(psnr))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_stay_what_they_were(name: str) -> None:
    """Of a made view: stores that were written before can be added to."""
    golden = json.loads((GOLDEN / "mill" / f"{name}.json").read_text(encoding="utf-8"))
    kind, options = TOKENIZERS[name]
    encoder = open_operator("tokenmill.tokenizers", kind, options, path="tokenizer").load("cpu")
    try:
        (ids,) = encoder.encode(encoder.preprocess(made_view(golden["shape"])[None])).values()
    finally:
        encoder.close()
    wanted = np.array(golden["ids"])
    assert ids.shape == (1, *golden["grid"])
    assert (np.ravel(ids) != wanted).mean() <= FLIPS


def made_view(shape: list[int]) -> Any:
    """A ball in a volume, or a picture of waves, the same everywhere; in a clip they move."""
    grids = np.indices(shape)
    if shape[-1] != 3:
        middle = (np.array(shape)[:, None, None, None] - 1) / 2
        return ((grids - middle) ** 2).sum(0) < (0.35 * shape[0]) ** 2
    *time, row, column, channel = grids
    phase = (row * (channel + 1) + 2 * column + 9 * sum(time)) % 96
    return (np.abs(phase - 48) * 5).astype(np.uint8)


@pytest.mark.parametrize("name", ["mill_image_f8", "mill_image_f16"])
def test_weights_of_pictures_stay_small(name: str) -> None:
    """Four megabytes each, at most."""
    assert shipped(name).stat().st_size <= 4 * 2**20
