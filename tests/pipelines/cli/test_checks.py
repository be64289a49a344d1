"""Limits on quality through the command: an exit code of their own, and how to go on."""

import json
from pathlib import Path

from tests.pipelines.cli.conftest import JOB, call

from tokenmill_pipelines.cli.guard import BREACH, QUARANTINE


def run(store: Path, *limits: str, more: tuple[str, ...] = ()) -> list[str]:
    """The arguments of a run of the demo job with small views and some limits."""
    fixed = (f"store.uri={store}", "cluster.backend=local", "cluster.actors=1", "view.size=64")
    sets = (*fixed, *(f"limits.{limit}" for limit in limits), *more)
    return ["run", str(JOB), *(word for each in sets for word in ("--set", each))]


def test_a_breach_has_an_exit_code_and_a_lower_limit_commits_what_is_there(tmp_path: Path) -> None:
    """One line that names the limit; nothing to read; then all of it, and its figures shown."""
    store = tmp_path / "store"
    stopped = call(*run(store, "min_psnr_db=35"))
    assert stopped.code == BREACH == 4
    (line,) = [line for line in stopped.err.splitlines() if line.startswith("tokenmill: ")]
    assert "shards decode to a mean PSNR below limits.min_psnr_db = 35: data/" in line
    assert "nothing was committed, and the shards are kept" in line
    assert call("show", str(store)).code == 1
    done = call(*run(store, "min_psnr_db=10", "max_entropy_drift=0.1"), "--json")
    assert done.code == QUARANTINE, "four files of the corpus are bad on purpose"
    value = done.document()
    assert value["done"]["units"] == 0 < value["done"]["reused_units"]
    assert 10 < value["checks"]["round_trip"]["worst"] < 35
    shown = call("show", str(store), "--json").document()
    assert [(one["samples"], one["groups"]) for one in shown["entropy"]] == [(1, 36), (8, 4)]
    assert call("log", str(store), "--json").document()[0]["entropy"] == shown["entropy"]
    assert "bits an id" in call("show", str(store)).out


def test_ids_that_moved_stop_a_run_and_are_told_as_json(tmp_path: Path) -> None:
    """Plain pictures after real ones, to a log of machines."""
    from PIL import Image

    store, plain = tmp_path / "store", tmp_path / "plain"
    plain.mkdir()
    for number in range(9):
        Image.new("RGB", (80, 80), (20 * number, 90, 60)).save(plain / f"{number}.png")
    assert call(*run(store)).code == QUARANTINE
    rows = [{"uri": f"{n}.png", "caption": "", "label": "", "licence": ""} for n in range(9)]
    (plain / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = (f'source.urls=["{plain}/list.jsonl"]', "increment.max_missing_fraction=1")
    stopped = call(*run(store, "max_entropy_drift=0.5", more=more), "--json")
    events = [json.loads(line) for line in stopped.err.splitlines()]
    assert stopped.code == BREACH
    assert events[-1]["kind"] == "QualityError"
    assert "beyond limits.max_entropy_drift = 0.5" in events[-1]["message"]
    told = {event["samples"]: event for event in events if event["event"] == "check"}
    assert told[1]["bits"] == 0 < 0.5 < told[1]["bits_before"] == -told[1]["drift"]
    allowed = call(*run(store, more=more))
    assert (allowed.code, "against the store's" in allowed.out) == (0, True)


def test_the_keys_are_listed() -> None:
    """With their defaults; and the help of the command has the code."""
    value = call("kinds", "limits", "--json").document()
    defaults = {key["key"]: key["default"] for key in value["keys"]}
    names = ("check_samples", "min_psnr_db", "min_iou", "max_entropy_drift")
    assert [defaults[name] for name in names] == [0, 0, 0, 0]
    assert "4 not committed" in " ".join(call("--help").out.split())
