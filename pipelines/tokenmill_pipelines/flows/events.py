"""The dataset event: after each commit Prefect is told, so that an automation can start training.

The event ``tokenmill.snapshot.committed`` is about the resource ``tokenmill.store.<address>``, with
the address that `tokenmill serve` shows: a URL without credentials, or a folder. Its
payload says which snapshot there is, and what is new in it (`tokenmill_pipelines.serving`).
Prefect adds the flow run, the flow and the deployment to the related resources.

It is sent at most once. A process that is killed between its commit and its event leaves a version
that nobody is told of until the next one; a consumer that must miss none reads the store's log.
"""

from __future__ import annotations

import threading

from prefect.events import emit_event
from prefect.events.worker import EventsWorker

from tokenmill_pipelines.run import Run, result_of
from tokenmill_pipelines.serving import COMMITTED, announcement, store_address

#: Seconds that a run waits for the server to take the event.
SEND_S = 10.0


def announce(run: Run) -> None:
    """Tell Prefect of what a run has committed, if it has; returns when the event is sent."""
    if run.snapshot is None or not run.committed:
        return
    job = run.assembly.job
    made = announcement(
        run.snapshot, store=store_address(job), job=job.name, added=result_of(run).done
    )
    emit_event(
        COMMITTED,
        resource=made.resource,
        related=made.related,
        payload=made.payload,
        id=made.event_id,
    )
    # A thread, because the wait itself has no end where the server has gone.
    sending = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    sending.start()
    sending.join(SEND_S)
