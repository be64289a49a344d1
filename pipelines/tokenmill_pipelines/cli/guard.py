"""The top of the command line: every error becomes one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import typer

from tokenmill_infra.observe import JsonObserver, Observer, choose
from tokenmill_pipelines.cli.output import printable
from tokenmill_schemas.errors import FingerprintError, JobError, QualityError, TokenmillError

DONE, FAILED, BAD_JOB, QUARANTINE, BREACH = 0, 1, 2, 3, 4
INTERRUPTED, TERMINATED = 130, 143

Handler = Callable[[int, FrameType | None], NoReturn]

#: What a person must mend: the job, or the store that it names.
BAD = (JobError, FingerprintError)
STOPPING = "stopping after the current batch; Ctrl-C again to stop at once"


#: What to do about what a disk refuses.
HINTS = {
    errno.ENOSPC: "make room, then the same command goes on from what is done",
    errno.EDQUOT: "make room, then the same command goes on from what is done",
    errno.EROFS: "it can be read, but not changed from here",
    errno.EACCES: "look at who may read and write there",
}


class TerminatedError(KeyboardInterrupt):
    """A scheduler asked the process to end; what stops on Ctrl-C stops on it too."""


@contextmanager
def guard(*, as_json: bool, debug: bool, again: str = "the same command") -> Iterator[Observer]:
    """Give a command its observer and turn what it raises into one line and an exit code.

    ``again`` is what a person who stopped it runs to go on.

    Raises:
        typer.Exit: whatever went wrong, with its code.
    """
    with _stoppable(as_json):
        try:
            yield choose(json=as_json, stream=sys.stderr)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            ended = isinstance(error, TerminatedError)
            word = "terminated" if ended else "interrupted"
            _tell(f"{word}; what is done is kept, {again} goes on from there", as_json)
            raise typer.Exit(TERMINATED if ended else INTERRUPTED) from error
        except Exception as error:  # the top: what is left becomes a line
            if debug:
                traceback.print_exc()
            _tell(_message(error), as_json, kind=type(error).__name__)
            raise typer.Exit(_code(error)) from error


def _code(error: Exception) -> int:
    if isinstance(error, QualityError):
        return BREACH
    return BAD_JOB if isinstance(error, BAD) else FAILED


@contextmanager
def _stoppable(as_json: bool) -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that actors and scratch files go.

    The first Ctrl-C says that it was heard; the second waits for nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Handler] = {
        signal.SIGTERM: _terminate,
        signal.SIGINT: _Interrupt(as_json),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Interrupt:
    """Handles Ctrl-C: once by unwinding the stack, twice by ending the process."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._heard = False

    def __call__(self, _number: int, _frame: FrameType | None) -> NoReturn:
        if self._heard:
            os._exit(INTERRUPTED)
        self._heard = True
        _say(STOPPING, self._as_json)
        raise KeyboardInterrupt


def _say(message: str, as_json: bool) -> None:
    """Write a line past `sys.stderr`, whose lock the interrupted code may hold."""
    text = io.StringIO()
    if as_json:
        JsonObserver(text).event("interrupt", message=message)
    else:
        # On a terminal the line begins after "^C" or a half-drawn bar.
        print("\n" * os.isatty(2) + f"tokenmill: {message}", file=text)
    with suppress(OSError):
        os.write(2, text.getvalue().encode())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminatedError(f"signal {number} at {frame.f_code.co_name if frame else 'no frame'}")


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in HINTS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or os.strerror(error.errno)}; {HINTS[error.errno]}"
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
