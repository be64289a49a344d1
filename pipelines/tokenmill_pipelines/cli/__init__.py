"""The command ``tokenmill``.

Exit codes: 0 done, 1 failed, 2 bad job or bad usage, 3 done with quarantine, 130 interrupted, 143
terminated. With ``--json`` standard output holds one JSON document and nothing else; progress and
errors are JSON lines on standard error.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command; the entry point of ``tokenmill``."""
    try:
        from tokenmill_pipelines.cli.app import app
    except ModuleNotFoundError as error:
        # A base install is what a trainer needs; it has no command line.
        sys.exit(f"tokenmill: the command needs {error.name!r}: pip install 'tokenmill[cluster]'")
    try:
        app(prog_name="tokenmill")
    except SystemExit as done:
        if isinstance(done.code, str):
            print(done.code, file=sys.stderr)
        leave(done.code if isinstance(done.code, int) else int(done.code is not None))
    leave(0)


def leave(code: int) -> NoReturn:
    """End the process with everything written and every exit handler run, but without C++'s.

    Threads of native libraries (Arrow, torch, gRPC) that still live while static objects are
    destroyed abort the process, rarely: a command that has done its work must not end with 134.
    """
    # What the interpreter's own end runs: Ray's and logging's handlers among them.
    atexit._run_exitfuncs()  # noqa: SLF001  (there is no public way, and no other end runs them)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has gone
            stream.flush()
    os._exit(code)
