"""Errors of commands: one line, one exit code, no traceback unless asked for."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import typer

from tokenmill_infra.observe import JsonObserver
from tokenmill_pipelines.cli.guard import TerminatedError, guard
from tokenmill_pipelines.cli.output import printable
from tokenmill_schemas.errors import CheckpointError, FingerprintError, JobError, StoreError


def code_of(error: BaseException, *, as_json: bool = False, debug: bool = False) -> int:
    """Return the exit code that the guard makes of an error."""
    with pytest.raises(typer.Exit) as caught, guard(as_json=as_json, debug=debug):
        raise error
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError("no"), 2),
        (CheckpointError("no"), 2),
        (FingerprintError("no"), 2),
        (StoreError("no"), 1),
        (OSError("no"), 1),
        (KeyError("bug"), 1),
        (KeyboardInterrupt(), 130),
        (TerminatedError(), 143),
    ],
)
def test_errors_have_the_documented_codes(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts tell a bad job from a failed run by the code; the message is one line."""
    assert code_of(error) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("tokenmill: ")
    assert shown.err.count("\n") == 1


def test_a_message_of_many_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A log collector gets one record; a file's name cannot steer the terminal."""
    code_of(StoreError("one\n  two\x1b[31m three"))
    assert capsys.readouterr().err == "tokenmill: one two\N{REPLACEMENT CHARACTER}[31m three\n"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "make room"), (errno.EROFS, "not changed from here")]
)
def test_what_a_disk_refuses_says_where_and_what_to_do(
    number: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, without the number of the error."""
    assert code_of(OSError(number, os.strerror(number), "/data/tokens")) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"tokenmill: /data/tokens: {os.strerror(number)}; ")
    assert said in told
    assert "Errno" not in told


def test_a_bug_names_its_kind_and_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw is not passed off as the user's mistake."""
    code_of(ZeroDivisionError("division by zero"))
    assert capsys.readouterr().err == (
        "tokenmill: unexpected ZeroDivisionError: division by zero (--debug shows where)\n"
    )


def test_a_missing_extra_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    """An import that fails inside a command is not a bug of ours."""
    code_of(ModuleNotFoundError("No module named 'ray'", name="ray"))
    assert "pip install 'tokenmill[all]'" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """And the line after it all the same."""
    assert code_of(JobError("no"), debug=True) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("tokenmill: no\n")


def test_errors_as_json_are_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output stays empty: no document is better than half of one."""
    assert code_of(JobError("no", path="view"), as_json=True) == 2
    shown = capsys.readouterr()
    event = json.loads(shown.err)
    assert shown.out == ""
    assert (event["event"], event["kind"], event["message"]) == (
        "error",
        "JobError",
        "view: no",
    )


def test_exits_pass_through() -> None:
    """A command that ends with a code keeps it."""
    with pytest.raises(typer.Exit) as caught, guard(as_json=False, debug=False):
        raise typer.Exit(3)
    assert caught.value.exit_code == 3


def test_sigterm_unwinds_like_ctrl_c_and_is_given_back() -> None:
    """What a scheduler sends ends the run cleanly; afterwards the handler is as before."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as caught:
        _terminated()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def _terminated() -> None:
    with guard(as_json=True, debug=False) as observer:
        assert isinstance(observer, JsonObserver)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal was not raised")


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_is_answered_at_once(as_json: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Before the batch has ended; then it is as every interrupt, and the handler as before."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(typer.Exit) as caught:
        _interrupted(as_json)
    answer = capfd.readouterr().err.splitlines()[0]
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    message = json.loads(answer)["message"] if as_json else answer
    said = "stopping after the current batch; Ctrl-C again to stop at once"
    assert message == (said if as_json else f"tokenmill: {said}")


def _interrupted(as_json: bool) -> None:
    with guard(as_json=as_json, debug=False):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the signal was not raised")


def test_the_second_ctrl_c_waits_for_nothing() -> None:
    """Not even for what would run on the way out."""
    code = """if True:
        import signal
        from tokenmill_pipelines.cli.guard import guard
        with guard(as_json=False, debug=False):
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                print("on the way", flush=True)
                signal.raise_signal(signal.SIGINT)
                print("too late", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "on the way\n")


def test_printable_keeps_letters_of_all_languages() -> None:
    """Only what is no character to see is replaced."""
    assert printable("Größe 大 é") == "Größe 大 é"
    assert printable("a\x07\x1b\n") == "a" + 3 * "\N{REPLACEMENT CHARACTER}"
