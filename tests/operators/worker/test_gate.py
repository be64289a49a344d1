from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tokenmill.worker.gate import Gate, Hold


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait a while for something to become true."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def started(call: Callable[[], None]) -> threading.Thread:
    """Call in a thread."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_one_that_is_alone_is_alone_whatever_the_others_do() -> None:
    """Eight threads go in and out; whoever is alone sees nobody, and everyone gets through."""
    gate, inside, seen = Gate(), set[int](), list[int]()

    def work(number: int) -> None:
        for turn in range(40):
            hold = Hold(gate)
            with hold.alone() if (number + turn) % 7 == 0 else hold.shared():
                inside.add(number)
                if hold.mode == "alone":
                    seen.append(len(inside))
                time.sleep(0)
                inside.discard(number)

    threads = [started(lambda number=number: work(number)) for number in range(8)]  # type: ignore[misc]  # the default binds the number
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert seen
    assert set(seen) == {1}


def test_who_asks_to_be_alone_goes_before_later_comers_and_says_that_it_lives() -> None:
    """Else a stream of readers would keep it waiting for ever."""
    gate, order, beats = Gate(), list[str](), list[float]()
    first = Hold(gate)

    def alone() -> None:
        with Hold(gate, lambda: beats.append(time.monotonic())).alone():
            order.append("alone")

    def shared() -> None:
        with Hold(gate).shared():
            order.append("shared")

    with first.shared():
        asker = started(alone)
        assert eventually(lambda: gate._asking == 1)
        comer = started(shared)
        assert eventually(lambda: len(beats) > 1)
        assert order == []
    asker.join(10)
    comer.join(10)
    assert order == ["alone", "shared"]


def test_who_pauses_lets_another_be_alone_in_between() -> None:
    """A reader that waits for room keeps no judge waiting, and is back in when it goes on."""
    gate, order = Gate(), list[str]()
    reader = Hold(gate)

    def judge() -> None:
        with Hold(gate).alone():
            order.append("judge")

    with reader.shared():
        thread = started(judge)
        assert eventually(lambda: gate._asking == 1)
        with reader.paused():
            thread.join(10)
            order.append("paused")
        modes = [reader.mode]
    modes.append(reader.mode)
    assert order == ["judge", "paused"]
    assert modes == ["shared", "out"]


def test_one_that_gives_no_sign_of_life_loses_its_pass() -> None:
    """It may come back later, as nobody: it holds up none and is not in anyone's way."""
    gate, release = Gate(), threading.Event()
    stuck = Hold(gate, is_stuck=lambda: True)

    def hang() -> None:
        with stuck.shared():
            release.wait(20)
        with stuck.alone():
            pass

    thread = started(hang)
    assert eventually(lambda: stuck.mode == "shared")
    with Hold(gate).alone():
        assert stuck.taken
        release.set()
        thread.join(10)
        assert not thread.is_alive()
        other = Hold(gate, is_stuck=lambda: True)
        other.take_away()
        with other.shared():
            assert other.mode == "out"


def test_without_a_gate_nothing_waits() -> None:
    """Where there is no limit there is nothing to be told apart."""
    one, two = Hold(None), Hold(None)
    with one.alone(), two.alone(), two.paused():
        assert one.mode == two.mode == "out"
    one.take_away()
