"""What the pool is told and what it tells: tasks, outcomes, and the events of a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

#: What ended an actor: the kernel or itself, its own standstill, or a lack of memory.
Cause = Literal["died", "frozen", "memory"]


class Task(Protocol):
    """A piece of work made of ``items``; frozen and picklable.

    When it kills its actor, the pool runs trials of parts of it to find the item that does, and
    then runs it without that item.
    """

    @property
    def task_id(self) -> str:
        """Names the task, its trials and its reduced forms alike."""
        ...

    @property
    def items(self) -> int:
        """How many items it has."""
        ...

    def trial(self, start: int, stop: int) -> Task:
        """Return a task that handles these items and has no effect."""
        ...

    def without(self, row: int, cause: Cause) -> Task:
        """Return this task less one item, which ended its actors by ``cause``."""
        ...


class Host(Protocol):
    """What runs tasks inside an actor."""

    def run(self, task: Any) -> Any:
        """Run one task; may be called from several threads at once."""
        ...

    def close(self) -> None:
        """Free what it holds; calls of `run` that are under way fail soon, later ones at once."""
        ...


Factory = Callable[[], Host]


@dataclass(frozen=True, slots=True)
class Note:
    """An actor had these items of a task at hand."""

    task_id: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PostMortem:
    """What is known of a dead actor: all that it had at hand, newest first, and what ended it."""

    notes: tuple[Note, ...] = ()
    cause: Cause = "died"


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's result, and at which attempt it came."""

    task_id: str
    result: Any
    attempts: int


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A task that could not be finished; the others go on."""

    task_id: str
    error: str
    attempts: int


Outcome = Finished | GaveUp


@dataclass(frozen=True, slots=True)
class Ready:
    """An actor has loaded and takes tasks."""

    actor: int


@dataclass(frozen=True, slots=True)
class Done:
    """A call returned."""

    actor: int
    lease: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A call raised, or (``lease`` -1) loading did."""

    actor: int
    lease: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Lost:
    """An actor is gone, with all that it was doing."""

    actor: int
    reason: str
    cause: Cause = "died"


Event = Ready | Done | Failed | Lost


class Backend(Protocol):
    """Starts and ends actors and carries calls to them; not thread-safe."""

    def start(self, actor: int) -> None:
        """Begin to start an actor; `Ready`, `Failed` or `Lost` follows."""
        ...

    def submit(self, actor: int, lease: int, task: Task) -> None:
        """Begin a call; `Done`, `Failed` or `Lost` follows."""
        ...

    def wait(self, timeout_s: float) -> list[Event]:
        """Return what happened, after waiting up to ``timeout_s`` for something to."""
        ...

    def post_mortem(self, actor: int) -> PostMortem:
        """Return what an actor that is gone, or is about to be killed, has noted."""
        ...

    def shortage(self) -> dict[str, str] | None:
        """Return what actors that have found no place ask for and what is there; None if none."""
        ...

    def kill(self, actor: int) -> None:
        """End an actor at once; no event follows."""
        ...

    def close(self) -> None:
        """End all actors."""
        ...
