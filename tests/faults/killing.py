"""Kills processes at every change that they make to a store; run by `test_protocol`.

Everything is imported once; each death is a fork of it. What changes the file system is heard from
the interpreter itself (`sys.addaudithook`), so nothing of the product takes part: every file that
is opened for writing, linked or removed and every folder made or removed below the store is a point
at which the fork gets SIGKILL instead. Killed before change n is killed after change n - 1.

Answers with a JSON object: the changes of an undisturbed run, and for each point what was wrong, if
anything: what a reader saw between the death and the rerun, and what the rerun left.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.state import State, problems_between, problems_of_rerun, state_of

from tokenmill_pipelines.report import page

#: Audit events that change the file system, and where in their arguments the paths and folders are.
CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.remove": ((0, 1),),
    "os.link": ((0, 2), (1, 3)),
    "os.rename": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
}
#: What differs between two temporary files, shards or records of one kind.
UNIQUE = re.compile(r"[0-9a-f]{16,}")
#: Changes of files that readers see.
SEEN = re.compile(r"(os\.link|os\.rename|os\.remove|open) /(?!\.)")
#: What every run makes before it commits; dying there is looked at closely in one scenario.
OF_A_RUN = tuple(
    f"os.link /{name}/"
    for name in ("_running", "plans", "data", "receipts", "quarantine", "manifest", "reports")
)
#: Modules to import before the forks.
WARM = ("tokenmill", "jinja2", "numpy", "pyarrow", "PIL", "importlib", "email")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
#: How long any one process may take.
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Point:
    """One death: the number of the change that was not made any more, and what was wrong."""

    number: int
    change: str
    died: bool
    versions: int
    problems: tuple[str, ...]


@dataclass(slots=True)
class Listener:
    """Hears the changes below ``root``; SIGKILL instead of change ``kill_at``, 0 for never."""

    root: str
    log: Path
    kill_at: int = 0
    heard: int = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Note a change, or die instead of it."""
        path = self._changed(event, args)
        if path is None:
            return
        self.heard += 1
        if self.heard == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        line = f"{event} {path}\n".encode()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, line)
        os.close(descriptor)

    def _changed(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "open":
            path, _, flags = args
            paths = [path] if isinstance(flags, int) and flags & WRITING else []
        else:
            places = CHANGES.get(event, ())
            paths = [_at(args[i], args[j] if j is not None else -1) for i, j in places]
        names = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | Path)]
        inside = [
            name[len(self.root) :]
            for name in names
            if name == self.root or name.startswith(f"{self.root}/")
        ]
        # Of a link, the name that a reader sees.
        return min(inside, key=lambda name: "/.scratch" in name, default=None)


def _at(path: Any, folder: int) -> Any:
    """A path that may be relative to an open folder, as `shutil.rmtree` gives them."""
    if folder < 0:
        return path
    return str(Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path))


def forked(function: Callable[[], Any], answer: Path | None = None) -> int:
    """Run ``function`` in a fork; returns how it ended, as `subprocess` does.

    What it returns is written to ``answer`` as JSON.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            value = function()
            if answer is not None:
                answer.write_text(json.dumps(value))
            code = 0
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"a process took more than {TIMEOUT_S} s")


def worth_it(changes: list[str], *, thorough: bool) -> list[int]:
    """Return the numbers of the changes before which to die, from 1.

    Before each change of a file that a reader could see, which for readers is after the one before
    it, and after the last of them. If ``thorough`` also right after each of them, and before each
    other change (of folders, temporary files and their locks) the first time that there is one of
    its kind; and at the very end.
    """
    seen = [number for number, change in enumerate(changes, 1) if SEEN.match(change)]
    chosen = {*seen, max(seen, default=0) + 1}
    if thorough:
        chosen |= {*_firsts(changes).values()} | {number + 1 for number in seen}
        chosen.add(len(changes) + 1)
    return sorted(chosen)


def worth_most(changes: list[str], *, thorough: bool) -> list[int]:
    """Return those of `worth_it` that a quick look at an operation takes.

    Before the first change of each kind: of all kinds if ``thorough``, else of those that readers
    see and that not every run makes; and after the last of what readers see.
    """
    seen = [number for number, change in enumerate(changes, 1) if SEEN.match(change)]
    kinds = _firsts(changes)
    if not thorough:
        kinds = {k: n for k, n in kinds.items() if n in seen and not k.startswith(OF_A_RUN)}
    return sorted({*kinds.values(), max(seen, default=0) + 1})


def _firsts(changes: list[str]) -> dict[str, int]:
    """Return each kind of change with the number of the first one."""
    kinds = [UNIQUE.sub("*", change) for change in changes]
    return {kind: kinds.index(kind) + 1 for kind in kinds}


#: How many deaths a scenario is played with.
DEPTHS: dict[str, Callable[..., list[int]]] = {"quick": worth_most, "whole": worth_it}


@dataclass(frozen=True, slots=True)
class Matrix:
    """One scenario, played once for each point."""

    scenario: Scenario
    folder: Path
    choose: Callable[..., list[int]] = worth_it

    @property
    def store(self) -> Path:
        """Where the operation finds the store, each time anew."""
        return self.folder / "store"

    def run(self) -> dict[str, Any]:
        """Play it undisturbed, then once for every change."""
        self._sound(lambda: self.scenario.prepare(str(self.store)))
        if self.store.exists():
            self.store.rename(self.folder / "base")
        self._reset()
        old = self._sound(lambda: state_of(self.store))
        changes, modules = self._act()
        for name in modules:  # not in each fork again
            importlib.import_module(name)
        whole = self._sound(lambda: state_of(self.store))
        numbers = self.choose(changes, thorough=self.scenario.thorough)
        points = [self._point(number, changes, old, whole) for number in numbers]
        return {"changes": changes, "points": [asdict(point) for point in points]}

    def _sound(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns in a process of its own."""
        answer = self.folder / "answer"
        code = forked(function, answer)
        if code != 0:
            raise RuntimeError(f"{self.scenario.name} ended with {code} without a fault")
        return json.loads(answer.read_text())

    def _reset(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        if (self.folder / "base").exists():
            # The files of a store are immutable: a link is as good as a copy.
            shutil.copytree(self.folder / "base", self.store, copy_function=os.link)

    def _act(self, kill_at: int = 0) -> tuple[list[str], list[str]]:
        """Act on a fresh store until change ``kill_at``.

        Returns:
            The changes that were made, and the modules that it took.
        """
        self._reset()
        log, answer = self.folder / "changes", self.folder / "answer"
        log.unlink(missing_ok=True)
        answer.write_text("[]")

        def act() -> list[str]:
            sys.addaudithook(Listener(str(self.store), log, kill_at))
            self.scenario.act(str(self.store))
            return [name for name in sys.modules if name.startswith(WARM)]

        code = forked(act, answer)
        if code not in (0, -signal.SIGKILL) or (code and not kill_at):
            raise RuntimeError(f"{self.scenario.name}, killed at {kill_at}, ended with {code}")
        changes = log.read_text().splitlines() if log.exists() else []
        return changes, json.loads(answer.read_text())

    def _point(self, number: int, changes: list[str], old: State, whole: State) -> Point:
        made = len(self._act(kill_at=number)[0])
        seen, left = self._sound(self._seen_and_left)
        problems = problems_between(seen, old, whole) + problems_of_rerun(left, whole)
        change = changes[number - 1] if number <= len(changes) else "the end"
        return Point(number, change, made < number, len(seen["versions"]), tuple(problems))

    def _seen_and_left(self) -> tuple[State, State]:
        seen = state_of(self.store)
        self.scenario.rest(str(self.store))
        self.scenario.act(str(self.store))
        return seen, state_of(self.store)


def warm_reports() -> None:
    """Compile once the template that each report compiles anew."""
    found = page.templates()
    found.get_template("report.html.j2")
    page.templates = lambda: found


def main() -> int:
    """Answer each line ``SCENARIO DEPTH FOLDER`` of the standard input with its matrix."""
    warm_reports()
    for line in sys.stdin:
        name, depth, folder = line.split()
        try:
            answer = Matrix(SCENARIOS[name], Path(folder), DEPTHS[depth]).run()
        except (RuntimeError, TimeoutError) as error:  # what the fork said is in our errors
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
