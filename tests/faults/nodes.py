"""A job on a cluster of two nodes, one of which dies: ``nodes.py JOB.json PIDS``.

``PIDS`` is the folder in which the job's decoder leaves its process ids: as soon as one of them
is of the second node, all processes of that node get SIGKILL. Prints the ids of both.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import Job, parse_job

TIMEOUT_S = 60.0
NODE: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
}


def processes_of(node: Any) -> list[psutil.Process]:
    """The raylet of a node first, then all that it has started, and the node's other processes."""
    roots = [info.process.pid for infos in node.all_processes.values() for info in infos]
    raylet = node.all_processes["raylet"][0].process.pid
    found = [psutil.Process(pid) for pid in sorted(roots, key=lambda pid: pid != raylet)]
    return [*found, *(child for root in found for child in root.children(recursive=True))]


def kill_when_at_work(node: Any, pids: Path, killed: list[int]) -> None:
    """SIGKILL a whole node as soon as an actor on it has decoded something."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        here = {process.pid for process in processes_of(node)}
        if at_work := [int(file.name) for file in pids.iterdir() if int(file.name) in here]:
            for process in processes_of(node):
                os.kill(process.pid, signal.SIGKILL)
            killed += at_work
            return
        time.sleep(0.02)


def run_on_dying(job: Job, pids: Path, temp: str) -> dict[str, Any]:
    """Run a job on two nodes, then on one."""
    head = NODE | {"node_ip_address": "127.0.0.2", "temp_dir": temp}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        far = cluster.add_node(**NODE, node_ip_address="127.0.0.3")
        job = replace(job, cluster=replace(job.cluster, address=cluster.address))
        killed: list[int] = []
        killer = threading.Thread(target=kill_when_at_work, args=(far, pids, killed))
        killer.start()
        result = run_job(job, observer=SilentObserver())
        killer.join()
        return {"killed": killed, "quarantined": result.quarantined, "done": result.done}
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types there


def main() -> int:
    """Run the job of the command line."""
    job = parse_job(json.loads(Path(sys.argv[1]).read_text()))
    # Socket paths below it must stay under 107 bytes, which a test's own folders do not.
    temp = tempfile.mkdtemp(prefix="tm")
    try:
        print(json.dumps(run_on_dying(job, Path(sys.argv[2]), temp)))
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
