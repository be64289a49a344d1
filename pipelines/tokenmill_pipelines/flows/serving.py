"""The temporary server's own process: ``python -m tokenmill_pipelines.flows.serving PORT``.

It serves for as long as its standard input is open. That is a pipe whose other end the run holds,
so the server ends with the run even if that was killed and could not end anything itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

APP = "prefect.server.api.server:create_app"


def main() -> None:
    """Serve Prefect's API on a loopback port."""
    import uvicorn

    threading.Thread(target=_end_with_the_run, daemon=True).start()
    uvicorn.run(APP, factory=True, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


def _end_with_the_run() -> None:
    # Not through sys.stdin: a thread that waits with its lock held breaks the interpreter's exit.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
