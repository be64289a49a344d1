"""The top of the command line: every error becomes one line and an exit code."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from tokenmill_infra.observe import JsonObserver, Observer, choose
from tokenmill_pipelines.cli.output import printable
from tokenmill_schemas.errors import JobError, TokenmillError

DONE, FAILED, BAD_JOB, QUARANTINE = 0, 1, 2, 3
INTERRUPTED, TERMINATED = 130, 143


class TerminatedError(KeyboardInterrupt):
    """A scheduler asked the process to end; what stops on Ctrl-C stops on it too."""


@contextmanager
def guard(*, as_json: bool, debug: bool) -> Iterator[Observer]:
    """Give a command its observer and turn what it raises into one line and an exit code.

    Raises:
        typer.Exit: whatever went wrong, with its code.
    """
    with _terminable():
        try:
            yield choose(json=as_json, stream=sys.stderr)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            ended = isinstance(error, TerminatedError)
            word = "terminated" if ended else "interrupted"
            _tell(f"{word}; what is done is kept, the same command goes on from there", as_json)
            raise typer.Exit(TERMINATED if ended else INTERRUPTED) from error
        except Exception as error:  # the top: what is left becomes a line
            if debug:
                traceback.print_exc()
            _tell(_message(error), as_json, kind=type(error).__name__)
            raise typer.Exit(BAD_JOB if isinstance(error, JobError) else FAILED) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that actors and scratch files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminatedError(f"signal {number} at {frame.f_code.co_name if frame else 'no frame'}")


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, TokenmillError | OSError) and text:
        return text
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name!r} is not installed: pip install 'tokenmill[all]'"
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"


def _tell(message: str, as_json: bool, *, kind: str = "") -> None:
    if as_json:
        JsonObserver(sys.stderr).event("error", kind=kind, message=message)
    else:
        print(f"tokenmill: {printable(message)}", file=sys.stderr)
