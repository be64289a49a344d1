"""What is forked from a process after a flow ran in it ends well.

Prefect 3.8 has `threading` end its services when the interpreter ends, in a forked child too, where
none of them runs: the child's ``_at_exit`` then fails (`prefect._internal.concurrency.services`:
``assert self._done_event is not None``) and its exit code is 1. torch's ``DataLoader`` takes that
for a worker that crashed, after all batches have come.
"""

from __future__ import annotations

import functools
import os
import threading


@functools.cache
def mend_forks() -> None:
    """Have every process that is forked from this one forget Prefect's services; once is enough."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget_services)


def forget_services() -> None:
    """Take Prefect's calls off the list of what `threading` does at the end."""
    calls = getattr(threading, "_threading_atexits", None)  # since Python 3.9, and not public
    if isinstance(calls, list):
        calls[:] = [call for call in calls if not _is_prefects(call)]


def _is_prefects(call: object) -> bool:
    called = getattr(call, "func", call)  # `threading` keeps them as partials
    return str(getattr(called, "__module__", "")).startswith("prefect.")
