"""One run per store at a time: a slot on the Prefect server, and who has it.

The slot is a global concurrency limit of one with a lease, so taking it is atomic and a run that
dies loses it when the lease ends. That alone is not enough: a server forgets leases that it keeps
in memory when it is started anew, and the slot stays taken for ever. So the holder also marks its
flow run with the slot's name and touches it as often as it renews the lease. A slot without a
holder that lives is thrown away and made again. Prefect deletes by id, and one delete of an id
succeeds, so of many that find such a slot one at most takes it.

The store needs none of this to stay right: commits and receipts have one winner there. A slot
keeps two runs from doing the same work.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run as this_run

#: The shortest lease that Prefect gives; how often it is renewed; when a holder counts as dead.
LEASE_S = 60.0
RENEW_S = 20.0
DEAD_S = 180.0
#: A holder takes the slot and then marks its run: how often, how far apart to look for the mark.
LOOKS, LOOK_S = 4, 0.5

LOCKED = 423
SOMEBODY = "another run"


@contextlib.contextmanager
def store_slot(name: str) -> Iterator[str]:
    """Hold a store's slot inside the block; must be entered in a flow run.

    Gives "" if this run has the slot. Gives the run that has it, in words, if there is one: then
    the block runs without the slot, and should end.
    """
    with get_client(sync_client=True) as client:
        taken = _take(client, name)
    if isinstance(taken, str):
        yield taken
        return
    stop = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(taken, this_run.id, _tags(name), stop), daemon=True
    )
    renewing.start()
    try:
        yield ""
    finally:
        stop.set()
        renewing.join()
        with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lease_id=taken)


def _take(client: SyncPrefectClient, name: str) -> UUID | str:
    """Return the lease of the slot, or who has it."""
    for _ in range(2):
        limit = _limit(client, name)
        lease = _lease(client, name)
        if lease is not None:
            client.update_flow_run(UUID(this_run.id), tags=_tags(name))
            return lease
        holder = _holder(client, name)
        if holder is not None:
            return _describe(holder)
        with contextlib.suppress(ObjectNotFound):
            client.delete_global_concurrency_limit_by_name(str(limit))
    return SOMEBODY


def _limit(client: SyncPrefectClient, name: str) -> UUID:
    """Return the id of the slot, which is made when there is none."""
    with contextlib.suppress(ObjectNotFound):
        return client.read_global_concurrency_limit_by_name(name).id
    with contextlib.suppress(ObjectAlreadyExists):
        return client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=1)
        )
    return client.read_global_concurrency_limit_by_name(name).id


def _lease(client: SyncPrefectClient, name: str) -> UUID | None:
    try:
        answer = client.increment_concurrency_slots_with_lease(
            names=[name], slots=1, mode="concurrency", lease_duration=LEASE_S
        )
    except httpx.HTTPStatusError as error:
        if error.response.status_code == LOCKED:
            return None
        raise
    return UUID(answer.json()["lease_id"])


def _tags(name: str) -> list[str]:
    return sorted({*this_run.tags, name})


def _renew(lease: UUID, run_id: str, tags: list[str], stop: threading.Event) -> None:
    """Keep the lease, and the run's time of change, while the run lasts.

    Without a server the run goes on: what it makes does not depend on one.
    """
    with get_client(sync_client=True) as client:
        while not stop.wait(RENEW_S):
            with contextlib.suppress(httpx.HTTPError):
                client.renew_concurrency_lease(lease_id=lease, lease_duration=LEASE_S)
            with contextlib.suppress(httpx.HTTPError, ObjectNotFound):
                client.update_flow_run(UUID(run_id), tags=tags)


def _holder(client: SyncPrefectClient, name: str) -> FlowRun | None:
    """Return the living run that has marked itself as the slot's holder."""
    for look in range(LOOKS):
        time.sleep(LOOK_S if look else 0)
        runs = client.read_flow_runs(flow_run_filter=_marked(name), limit=10)
        alive = _now(client) - timedelta(seconds=DEAD_S)
        for run in runs:
            if str(run.id) != this_run.id and run.updated is not None and run.updated > alive:
                return run
    return None


def _marked(name: str) -> FlowRunFilter:
    working = [StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED, StateType.PENDING]
    return FlowRunFilter(
        tags=FlowRunFilterTags(all_=[name]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=working)),
    )


def _now(client: SyncPrefectClient) -> datetime:
    """Return the time by the server's clock, which is also what runs are stamped with."""
    date = client.request("GET", "/health").headers.get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


def _describe(run: FlowRun) -> str:
    file = run.parameters.get("job_file")
    of = f" of {Path(file).name}" if isinstance(file, str) else ""
    return f"flow run {run.name!r}{of} ({run.id})"
