"""Observers say the same things in three ways, and none of them can hurt a run."""

import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_infra.observe import (
    HOP_NAMES,
    HOPS,
    JsonObserver,
    Observer,
    PlainObserver,
    SilentObserver,
    bottleneck,
    choose,
)
from tokenmill_infra.observe.bars import RichObserver, describe, duration
from tokenmill_infra.observe.observer import line
from tokenmill_infra.observe.pace import Pace


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


def told(stream: io.StringIO) -> list[dict[str, object]]:
    """Return the events that were written."""
    return [json.loads(text) for text in stream.getvalue().splitlines()]


def test_hops_are_those_of_the_design_in_its_order() -> None:
    """The table has one entry per hop, and Prometheus' naming rules hold."""
    assert " ".join(HOP_NAMES) == (
        "list plan diff dispatch fetch decode view batch encode check write commit"
    )
    assert HOPS[8].metric == "tokenmill_encode_seconds_total"
    assert all(hop.help and hop.unit == "seconds" for hop in HOPS)


def test_the_bottleneck_is_the_hop_with_most_seconds_per_thread() -> None:
    """Thread-seconds are shared by a hop's threads before they are compared."""
    assert bottleneck({"decode": 30.0, "encode": 20.0}, {"decode": 4}) == "encode"
    assert bottleneck({"decode": 30.0, "encode": 20.0}, {"decode": 1}) == "decode"
    assert bottleneck({"write": 5.0, "fetch": 5.0}, {}) == "fetch"
    assert bottleneck({}, {}) == ""
    assert bottleneck({"encode": 0.0}, {}) == ""


@given(st.dictionaries(st.sampled_from(HOP_NAMES), st.floats(0.001, 1e6), min_size=1))
def test_the_bottleneck_does_not_depend_on_the_order_of_the_hops(seconds: dict[str, float]) -> None:
    """Mappings of equal content give equal answers, and the answer is one of them."""
    backwards = dict(reversed(list(seconds.items())))
    found = bottleneck(seconds, {})
    assert found == bottleneck(backwards, {})
    assert seconds[found] == max(seconds.values())


def test_a_stage_tells_its_start_its_end_and_its_time() -> None:
    """Two events of the stage's name, the second with the wall time."""
    clock, stream = Clock(), io.StringIO()
    with JsonObserver(stream, clock=clock).stage("list"):
        clock.now = 2.5
    events = told(stream)
    assert [(e["event"], e["state"]) for e in events] == [("list", "start"), ("list", "end")]
    assert events[1]["wall_s"] == 2.5


@pytest.fixture(autouse=True)
def _able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever terminal the tests run on, rich sees one that can do all."""
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("kind", [JsonObserver, PlainObserver, RichObserver])
def test_a_failing_stage_is_told_and_its_error_goes_on(kind: type) -> None:
    """An observer never swallows an error; the line says that the stage failed."""
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), kind(stream, clock=Clock()).stage("encode"):
        raise KeyboardInterrupt
    assert ("✗" if kind is RichObserver else "failed") in stream.getvalue()


def test_progress_lines_are_throttled_but_the_last_always_comes() -> None:
    """One line per five seconds however often progress is told, and one when all is done."""
    clock, stream = Clock(), io.StringIO()
    observer = JsonObserver(stream, clock=clock)
    for done in range(101):
        clock.now = done / 10
        observer.progress(done, 100, samples=2 * done, seconds={"encode": done / 10})
    observer.progress(100, 100)
    assert [event["done"] for event in told(stream)] == [0, 50, 100]


def test_progress_says_rate_time_left_and_bottleneck() -> None:
    """Rates come from the totals, the bottleneck from what was spent since the last ones."""
    clock, stream = Clock(), io.StringIO()
    observer = JsonObserver(stream, clock=clock)
    observer.progress(40, 100, samples=0, seconds={"decode": 900.0})
    clock.now = 10.0
    observer.progress(
        60, 100, samples=40, seconds={"decode": 908.0, "encode": 9.0}, threads={"decode": 2}
    )
    last = told(stream)[-1]
    assert (last["samples_per_s"], last["eta_s"], last["bottleneck"]) == (4.0, 20.0, "encode")


def test_an_unknown_total_gives_no_time_left() -> None:
    """While a listing runs nobody can say when it ends."""
    stream = io.StringIO()
    JsonObserver(stream, clock=Clock()).progress(7, 0)
    assert told(stream)[0]["done"] == 7
    assert not {"total", "eta_s"} & set(told(stream)[0])


def test_the_pace_follows_a_change_and_forgets_the_past() -> None:
    """Only the window counts; a bar that began anew begins anew."""
    pace = Pace(window_s=10)
    for second in range(0, 101, 5):
        pace.add(second, 10 * second if second < 50 else 500 + second - 50, 0, {})
    assert pace.assets_per_s == 1.0
    pace.add(101, 3, 0, {})
    assert pace.assets_per_s is None


def test_plain_lines_can_be_split_again() -> None:
    """A value with a space, a quote, a newline or nothing in it is a JSON string."""
    text = line("write", {"unit": "ab12", "rate": 1234.567, "error": 'no "x"\nhere', "none": ""})
    assert text[9:] == 'write unit=ab12 rate=1234.6 error="no \\"x\\"\\nhere" none=""'


def test_facts_cannot_forge_an_events_name() -> None:
    """A fact called ``event`` does not replace the event's own name."""
    stream = io.StringIO()
    JsonObserver(stream).event("write", event="commit", unit="u")
    assert told(stream)[0]["event"] == "write"


def test_a_closed_stream_does_not_stop_a_run() -> None:
    """Whoever reads the log may go away."""
    stream = io.StringIO()
    observer = PlainObserver(stream)
    stream.close()
    with observer.stage("list"):
        observer.warn("nobody hears this")


def test_bars_are_gone_after_the_run_and_text_is_never_markup() -> None:
    """The cursor is shown again at the end; square brackets in a name are only brackets."""
    stream = Terminal()
    observer = RichObserver(stream, clock=Clock())
    with observer.stage("run"), observer.stage("encode"):
        observer.progress(3, 8, samples=3, seconds={"encode": 1.0})
        observer.warn("cannot read [bold]a.jpg[/bold]")
        observer.event("write", unit="hidden-by-the-bar")
        observer.event("resumed", units=4)
    text = stream.getvalue()
    assert "[bold]a.jpg[/bold]" in text
    assert "units=4" in text
    assert "hidden-by-the-bar" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_descriptions_and_durations_read_well() -> None:
    """What stands beside a bar."""
    pace = Pace()
    pace.add(0.0, 0, 0, {})
    pace.add(10.0, 10, 12_000, {})
    assert describe(pace, 310, "encode") == "1,200.0 samples/s · 5 min 0 s left · encode limits"
    assert [duration(s) for s in (0.42, 42.0, 185.2, 7800.0)] == [
        "0.42 s",
        "42 s",
        "3 min 5 s",
        "2 h 10 min",
    ]


def test_choose_looks_at_where_its_lines_go() -> None:
    """JSON when asked, bars on a terminal, lines elsewhere; all of them are observers."""
    observers: list[Observer] = [
        choose(json=True, stream=Terminal()),
        choose(json=False, stream=Terminal()),
        choose(json=False, stream=io.StringIO()),
        SilentObserver(),
    ]
    kinds = [JsonObserver, RichObserver, PlainObserver, SilentObserver]
    assert [type(observer) for observer in observers] == kinds


def test_silence_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """The silent observer writes nowhere."""
    observer: Observer = SilentObserver()
    with observer.stage("list"):
        observer.progress(1, 2, samples=3)
        observer.event("write", unit="u")
        observer.warn("w")
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_does_not_import_rich() -> None:
    """An actor that only logs lines pays for no terminal library."""
    code = "import sys, tokenmill_infra.observe; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
