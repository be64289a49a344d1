import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.worker.channel import AbandonedError, Channel
from tokenmill.worker.crew import DeadlineExceeded


def written(channel: Channel[bytes], items: list[bytes]) -> threading.Thread:
    """Write items and close, in a thread."""

    def write() -> None:
        for item in items:
            channel.put(item)
        channel.close()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@given(st.lists(st.binary(max_size=40)), st.integers(1, 60))
def test_items_come_out_in_order_whatever_fits(items: list[bytes], ahead: int) -> None:
    """Nothing is lost or turned, however narrow the channel."""
    channel: Channel[bytes] = Channel(len, ahead_bytes=ahead)
    thread = written(channel, items)
    assert list(channel.take(10.0)) == items
    thread.join(10.0)


def test_a_writer_waits_when_it_is_too_far_ahead() -> None:
    """At most the bound, and the item that goes beyond it, are held."""
    channel: Channel[bytes] = Channel(len, ahead_bytes=10)
    put: list[int] = []

    def write() -> None:
        for number in range(5):
            channel.put(bytes(8))
            put.append(number)
        channel.close()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    time.sleep(0.2)
    assert put == [0, 1]
    assert len(list(channel.take(10.0))) == 5
    thread.join(10.0)


def test_waiting_for_room_is_measured() -> None:
    """A writer learns how long it was held up, so that this is not called decoding."""
    channel: Channel[bytes] = Channel(len, ahead_bytes=1)
    assert channel.put(b"ab") < 0.05
    waits: list[float] = []
    thread = threading.Thread(target=lambda: waits.append(channel.put(b"c")), daemon=True)
    thread.start()
    time.sleep(0.2)
    next(channel.take(1.0))
    thread.join(10.0)
    assert waits[0] > 0.1


def test_who_is_abandoned_is_let_go() -> None:
    """A writer that waits for room gets an error when nobody takes anything any longer."""
    channel: Channel[bytes] = Channel(len, ahead_bytes=1)
    channel.put(b"ab")
    ended: list[type[BaseException]] = []

    def write() -> None:
        try:
            channel.put(b"c")
        except AbandonedError as error:
            ended.append(type(error))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    channel.abandon()
    thread.join(10.0)
    assert ended == [AbandonedError]


def test_a_writer_that_goes_silent_is_late() -> None:
    """Once it has begun, a writer must write or give a sign within the deadline."""
    channel: Channel[bytes] = Channel(len)
    channel.beat()
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        next(channel.take(0.2))
    assert time.monotonic() - start > 0.15


def test_signs_of_life_put_the_deadline_off() -> None:
    """A film that is read for long is not late as long as it is being read."""
    channel: Channel[bytes] = Channel(len)

    def live() -> None:
        for _ in range(8):
            channel.beat()
            time.sleep(0.1)
        channel.put(b"done")
        channel.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    assert list(channel.take(0.4)) == [b"done"]
    thread.join(10.0)


def test_a_writer_that_has_not_begun_is_not_late() -> None:
    """Waiting for one's turn in the crew is nobody's fault."""
    channel: Channel[bytes] = Channel(len)

    def late() -> None:
        channel.put(b"x")
        channel.close()

    threading.Timer(0.5, late).start()
    assert list(channel.take(0.1)) == [b"x"]
