from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tokenmill_infra.cluster import blackbox
from tokenmill_infra.cluster.blackbox import SIZE, SLOT_BYTES, SLOTS, BlackBox, read
from tokenmill_infra.cluster.tasks import Note, PostMortem

#: A process that says when it has noted something, and then does what it is told.
ACTOR = """
import ctypes, os, signal, sys, time
from tokenmill_infra.cluster.blackbox import BlackBox, Freeze
box = BlackBox(sys.argv[1])
with box.at("unit-a", 3, 4), box.at("unit-b", 0, 9):
    with box.at("unit-a", 1, 2):
        pass
    print(box.path, flush=True)
    {act}
"""


def died(folder: Path, act: str) -> tuple[int, PostMortem]:
    """Run an actor to its end; returns how it ended and what it left."""
    code = ACTOR.format(act=act)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, timeout=60, check=False
    )
    return ended.returncode, read(blackbox.read_and_remove(ended.stdout.decode().strip()))


def test_what_was_at_hand_is_read_after_any_death_newest_first(tmp_path: Path) -> None:
    """The kernel keeps the notes of a process that it kills; what was done is no longer there."""
    code, left = died(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert code == -signal.SIGKILL
    assert left == PostMortem((Note("unit-b", 0, 9), Note("unit-a", 3, 4)), "died")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_holds_the_interpreter_ends_itself_and_says_so(tmp_path: Path) -> None:
    """No Python thread can: C code sleeps with the lock; an actor that only works is left alone."""
    start = time.monotonic()
    freeze = "Freeze(0.6, box.path); {}"
    code, left = died(tmp_path, freeze.format("ctypes.PyDLL(None).sleep(60)"))
    assert time.monotonic() - start < 30
    assert (code, left.cause) == (1, "frozen")
    assert left.notes[1] == Note("unit-a", 3, 4)
    busy = "end = time.monotonic() + 1.5\n    while time.monotonic() < end: pass"
    code, left = died(tmp_path, freeze.format(busy))
    assert (code, left) == (0, PostMortem())


def test_closing_ends_the_watch(tmp_path: Path) -> None:
    """A worker of this process that was closed does not end it later."""
    act = "f = Freeze(0.5, box.path); f.close(); time.sleep(0.3); ctypes.PyDLL(None).sleep(2)"
    code, left = died(tmp_path, act)
    assert (code, left.cause) == (0, "died")


def test_more_than_it_has_room_for_is_done_without_a_note(tmp_path: Path) -> None:
    """A crowd of items, or a name without end, is no reason to stop."""
    box = BlackBox(tmp_path)
    with contextlib.ExitStack() as crowd:
        for number in range(SLOTS + 8):
            name = "x" * (SLOT_BYTES if number == 0 else 1)
            crowd.enter_context(box.at(name, number, number + 1))
        held = read(Path(box.path).read_bytes()).notes
    assert len(held) == len(set(held)) == SLOTS
    assert all(note.task_id == "x" for note in held)
    assert read(Path(box.path).read_bytes()).notes == ()
    box.close()
    with box.at("late", 0, 1):
        assert not Path(box.path).exists()


@given(st.binary(max_size=SIZE + 64))
def test_no_bytes_are_too_broken_to_be_read(data: bytes) -> None:
    """A file that something else has written to tells what it can, and nothing beside itself."""
    for note in read(data).notes:
        assert len(note.task_id.encode(errors="surrogatepass")) <= 3 * SLOT_BYTES


@given(st.integers(0, 40))
def test_a_note_that_death_cuts_short_is_none(written: int) -> None:
    """The serial number comes last: without it the slot is free."""
    whole = struct.pack("<QqqH", 0, 1, 2, 4) + b"unit"
    assert read(whole[:written].ljust(SIZE, b"\0")).notes == ()


def test_files_of_processes_long_gone_are_swept(tmp_path: Path) -> None:
    """Young ones may be about to be read; those of the living are theirs."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {"old": f"{gone.pid}-old", "young": f"{gone.pid}-young", "alive": f"{os.getpid()}-old"}
    files = {name: tmp_path / f"{blackbox.PREFIX}{text}" for name, text in names.items()}
    for name, file in files.items():
        file.touch()
        if name != "young":
            os.utime(file, (1.0, 1.0))
    BlackBox(tmp_path).close()
    assert sorted(tmp_path.iterdir()) == sorted([files["young"], files["alive"]])
