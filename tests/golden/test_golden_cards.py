import re
from pathlib import Path

import pytest
from tests.pipelines.cli.conftest import call

from tokenmill.tokenizers.mill_weights import FOLDER, shipped
from tokenmill_schemas.canonical import digest_bytes

JUDGED = Path(__file__).parent / "judged"
#: A row of a card's section "Judged": data, pictures, mean and median PSNR in dB, mean SSIM.
ROW = re.compile(r"^\| `tests/golden/judged` \| (\d+) \| ([\d.]+) dB \| ([\d.]+) dB \| ([\d.]+) \|")
SKIPPED = [f"--skip={part}" for part in ("codecs", "prefixes", "perturbed", "text", "faces")]
TOKENIZERS = {"mill_image_f8": ("mill_image", "--set=tokenizer.variant=f8")}


def test_every_card_tells_the_bytes_of_its_weights() -> None:
    """The sha256 that stands in a card is that of the file beside it."""
    cards = list(FOLDER.glob("mill_*.md"))
    assert {card.stem for card in cards} == {
        file.stem for file in FOLDER.glob("mill_*.safetensors")
    }
    assert set(TOKENIZERS) <= {card.stem for card in cards}
    for card in cards:
        told = re.search(r"\*\*sha256\*\*: ([0-9a-f]{64})", card.read_text(encoding="utf-8"))
        assert told is not None, card.name
        assert told[1] == digest_bytes([card.with_suffix(".safetensors").read_bytes()]), card.name


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_judge_gives_the_figures_of_the_card(name: str, tmp_path: Path) -> None:
    """On six photographs that nothing was learned from; another machine may differ a little."""
    card = shipped(name).with_suffix(".md").read_text(encoding="utf-8")
    (row,) = [found for line in card.splitlines() if (found := ROW.match(line))]
    args = ["judge", *TOKENIZERS[name], "--data", str(JUDGED / "listing.jsonl"), *SKIPPED]
    outcome = call(*args, "--out", str(tmp_path / "judge"), "--json")
    (judged,) = outcome.document()["tokenizers"]
    psnr, ssim = judged["figures"]["psnr_db"], judged["figures"]["ssim"]
    assert judged["views"] == int(row[1]) == len(list(JUDGED.glob("*.png")))
    assert psnr["mean"] == pytest.approx(float(row[2]), abs=0.02)
    assert psnr["median"] == pytest.approx(float(row[3]), abs=0.02)
    assert ssim["mean"] == pytest.approx(float(row[4]), abs=0.002)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "image" in name])
def test_weights_of_pictures_stay_small(name: str) -> None:
    """Four megabytes each, at most."""
    assert shipped(name).stat().st_size <= 4 * 2**20
