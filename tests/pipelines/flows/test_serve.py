"""``tokenmill serve`` on a real server: runs that overlap, are killed, scheduled, told of."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package that nothing else needs
from tests.pipelines.cli.conftest import call, command, environment
from tests.pipelines.flows.conftest import Api, Serving, until, write_job

from tokenmill.store import Store
from tokenmill_pipelines import flows
from tokenmill_pipelines.serving import COMMITTED

pytestmark = pytest.mark.prefect

DOCUMENTED = Path(__file__).parents[3] / "infra" / "prefect.md"


def holder_of(api: Api, *runs: str) -> str:
    """Wait until one of several runs has a store's slot."""

    def look() -> str | None:
        for run in runs:
            if any(tag.startswith("tokenmill-") for tag in api.state(run)["tags"]):
                return run
        return None

    return until(look, f"one of {runs} to take the slot")


def test_of_two_jobs_on_one_store_one_runs_and_one_is_skipped(serving: Serving) -> None:
    """Both started by hand at once; the skipped one says who ran, and runs the next time."""
    runs = {name: serving.api.run(name) for name in ("cats", "dogs")}
    first = holder_of(serving.api, *runs.values())
    engine = serving.engine(first)
    engine.suspend()  # until the other has come up, however long that takes here
    (other,) = set(runs.values()) - {first}
    skipped = serving.api.ended(other)
    engine.resume()
    assert (skipped["state_name"], skipped["state_type"]) == ("Skipped", "COMPLETED")
    assert first in skipped["state"]["message"]
    assert serving.api.ended(first)["state_name"] == "Completed"
    assert Store.open(serving.store("store")).snapshot().number == 1
    late = next(name for name, run in runs.items() if run == other)
    write_job(serving.folder, late, start=10 * (late == "dogs"), open_s=0.0)
    assert serving.api.ended(serving.api.run(late))["state_name"] == "Completed"
    head = Store.open(serving.store("store")).snapshot()
    assert (head.number, head.totals["samples"]) == (2, 8)


def training(api: Api, store: str) -> str:
    """Make the automation that the documentation shows, for a deployment; return its id."""
    flow = api.post("flows/", {"name": "train"})["id"]
    deployment = str(api.post("deployments/", {"name": "nightly", "flow_id": flow})["id"])
    text = DOCUMENTED.read_text().partition("```yaml\n")[2].partition("```")[0]
    automation = yaml.safe_load(text)
    automation["trigger"]["match"]["prefect.resource.id"] = f"tokenmill.store.{store}"
    automation["actions"][0]["deployment_id"] = deployment
    api.post("automations/", automation)
    return deployment


def started(api: Api, deployment: str) -> list[dict[str, Any]]:
    """Return the flow runs of a deployment."""
    body = {"deployments": {"id": {"any_": [deployment]}}}
    return list(api.post("flow_runs/filter", body))


def test_each_commit_is_announced_once_and_starts_a_training(serving: Serving) -> None:
    """A run that commits nothing is no news; what an event tells is what the store says."""
    address = serving.store("lone")
    trained = training(serving.api, address)
    for _ in range(2):
        assert serving.api.ended(serving.api.run("lone"))["state_name"] == "Completed"
    told = [e for e in serving.api.events(COMMITTED) if e["payload"]["store"] == address]
    head = Store.open(address).snapshot()
    (event,) = told
    assert event["resource"]["prefect.resource.id"] == f"tokenmill.store.{address}"
    assert (event["payload"]["snapshot"], event["payload"]["content_id"]) == (1, head.content_id)
    assert event["payload"]["totals"] == head.totals
    assert event["payload"]["added"]["samples"] == 4
    roles = {r["prefect.resource.role"]: r.get("prefect.resource.name") for r in event["related"]}
    assert roles["job"] == roles["deployment"] == "lone"
    (run,) = until(lambda: started(serving.api, trained), "the training")
    assert run["parameters"] == {"store": address, "snapshot": "1"}


def test_runs_are_scheduled_as_the_job_says(serving: Serving) -> None:
    """Half past three in Tokyo is half past six the evening before."""
    (shown,) = [job for job in serving.said["jobs"] if job["job"] == "lone"]
    due = until(lambda: serving.api.scheduled("lone"), "scheduled runs")
    assert all(time_.endswith("T18:30:00Z") for time_ in due)
    assert len(due) > 1
    assert shown["next run"].endswith("T03:30+09:00")
    assert shown["deployment"] == "tokenize/lone"


def test_a_file_that_is_wrong_fails_its_run_alone(serving: Serving) -> None:
    """The slip is in the run's state, and the service goes on."""
    (serving.folder / "lone.toml").write_text("[source]\nknid = 'files'\n")
    failed = serving.api.ended(serving.api.run("lone"))
    assert failed["state_name"] == "Failed"
    assert "source" in failed["state"]["message"]
    assert serving.process.poll() is None


def test_a_run_that_was_killed_does_not_keep_its_store(serving: Serving) -> None:
    """The next run takes the slot from it at once; it reads the job anew and does it all."""
    write_job(serving.folder, "lone", count=8, open_s=2.0)
    killed = serving.api.run("lone")
    assert holder_of(serving.api, killed) == killed
    serving.engine(killed).kill()
    assert serving.api.ended(killed)["state_name"] == "Crashed"
    write_job(serving.folder, "lone", count=10, open_s=0.0)
    assert serving.api.ended(serving.api.run("lone"))["state_name"] == "Completed"
    assert Store.open(serving.store("lone")).snapshot().totals["samples"] == 10


def test_it_ends_with_its_runs_its_server_and_its_schedules(serving: Serving) -> None:
    """Soon after a SIGTERM amid a run; what comes due later is not kept for a next time."""
    write_job(serving.folder, "lone", count=18, open_s=10.0)
    run = serving.api.run("lone")
    holder_of(serving.api, run)
    engine = serving.engine(run)
    code, took = serving.end(signal.SIGTERM)
    assert code == 143
    assert took < 60, "the run would have taken three minutes"
    assert not engine.is_running()
    with pytest.raises(OSError, match="refused"):
        serving.api.post("flows/filter")
    with closing(sqlite3.connect(serving.home / "prefect.db")) as kept:
        (state,) = kept.execute("select state_type from flow_run where id = ?", (run,)).fetchone()
        paused = kept.execute("select paused from deployment where name != 'nightly'").fetchall()
        left = kept.execute("select count(*) from flow_run where auto_scheduled").fetchall()
    assert state == "CANCELLED"
    assert paused == [(1,)] * 3
    assert left == [(0,)]
    assert Store.open(serving.store("lone")).snapshot().totals["samples"] == 10


@pytest.mark.parametrize("text", ["cron = '61 * * * *'", "cron = ''"])
def test_what_cannot_be_served_is_told_before_anything_starts(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, and no server is started for it."""
    write_job(tmp_path, "bad", open_s=0.0)
    file = tmp_path / "bad.toml"
    file.write_text(file.read_text().replace('cron = "30 3 * * *"', text))
    started: list[object] = []
    monkeypatch.setattr(flows, "temporary_server", lambda *a, **k: started.append(a))
    outcome = call("serve", str(tmp_path))
    assert (outcome.code, outcome.out) == (2, "")
    assert "cron" in outcome.err
    assert started == []


def test_an_api_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """Without its user's password; whoever supervises the service starts it again."""
    env = {"PREFECT_API_URL": "http://me:secret@127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path)}
    write_job(tmp_path, "one", open_s=0.0)
    done = subprocess.run(
        command("serve", str(tmp_path)),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env=environment() | env,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "http://127.0.0.1:9/api does not answer" in done.stderr
    assert "secret" not in done.stderr
