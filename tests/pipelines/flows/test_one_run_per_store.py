"""The slot of a store: who gets it, who is told of whom, and what becomes of slots of the dead."""

from __future__ import annotations

import subprocess
import sys
from json import loads
from typing import Any

import pytest
from tests.pipelines.cli.conftest import environment
from tests.pipelines.flows.conftest import Serving

pytestmark = pytest.mark.prefect

#: In a process of its own: Prefect keeps the API that it first saw, and other tests have another.
PROGRAM = """
import json, threading
from concurrent.futures import ThreadPoolExecutor
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.states import Running
from tokenmill_pipelines.flows import slots

slots.LOOK_S = 0.2
said = {}


@flow(name="holder")
def hold(name, inner=None):
    with slots.store_slot(name) as holder:
        if inner is not None:
            inner()
        return [holder]


def orphan(name):
    "A slot that is taken and has no lease, as after a restart of a server that forgets them."
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=1, active_slots=1)
        )


def other():
    said["told"] = hold.with_options(name="other")("shared")


said["first"] = hold("shared", other)
said["after"] = hold("shared")

orphan("orphan")
said["orphan"] = hold("orphan")

orphan("zombie")
with get_client(sync_client=True) as client:
    zombie = client.create_flow_run(
        hold, name="zombie", parameters={"name": "zombie"}, state=Running(), tags=["zombie"]
    )
said["zombie"] = hold("zombie")
slots.DEAD_S = -2.0  # the server tells its time in whole seconds
said["buried"] = hold("zombie")
slots.DEAD_S = 180.0

orphan("contended")
both = threading.Barrier(2, timeout=60)
with ThreadPoolExecutor(2) as threads:
    runs = [threads.submit(hold, "contended", both.wait) for _ in range(2)]
    said["contended"] = [run.result() for run in runs]
with get_client(sync_client=True) as client:
    said["left"] = {
        name: client.read_global_concurrency_limit_by_name(name).active_slots
        for name in ("shared", "orphan", "zombie", "contended")
    }
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(serving: Serving) -> dict[str, Any]:
    """What flow runs were told of the slots that they asked for."""
    env = {"PREFECT_API_URL": serving.api.url, "PREFECT_HOME": str(serving.home)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment() | env,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = loads(done.stdout)
    return found


def test_a_slot_has_one_holder_of_whom_others_are_told(said: dict[str, Any]) -> None:
    """Inside the block another run is told; after it the slot is free."""
    assert said["first"] == [""]
    assert said["told"][0].startswith("flow run '")
    assert said["after"] == [""]


def test_a_slot_that_nobody_holds_is_taken(said: dict[str, Any]) -> None:
    """A server that forgot its leases does not stop a store's schedule for ever."""
    assert said["orphan"] == [""]


def test_a_holder_counts_until_it_has_been_silent_for_long(said: dict[str, Any]) -> None:
    """A run that is called running, though its machine has gone, is believed for a while."""
    assert said["zombie"][0].startswith("flow run 'zombie' (")
    assert said["buried"] == [""]


def test_of_two_that_find_such_a_slot_one_takes_it(said: dict[str, Any]) -> None:
    """They look at the same time, and neither ends before both have an answer."""
    told = sorted(text for (text,) in said["contended"])
    assert told[0] == ""
    assert told[1] != ""


def test_slots_are_given_back(said: dict[str, Any]) -> None:
    """By all who took one."""
    assert said["left"] == dict.fromkeys(("shared", "orphan", "zombie", "contended"), 0)
