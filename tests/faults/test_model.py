"""Versions in any order of operations, against a plain dictionary."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from tokenmill.shards.select import read_columns
from tokenmill.store import Store, Version
from tokenmill.store.compact import compact
from tokenmill.store.gc import gc
from tokenmill.store.plans import listed
from tokenmill.store.purge import execute_due, purge
from tokenmill.store.takedown import takedown
from tokenmill.store.verify import verify_store
from tokenmill.testing.stores import encode_assets, shown
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError, StoreError

KEYS = st.sampled_from("abcdefghij")


@dataclass
class State:
    """What a version has: readings of assets that are shown, those that are hidden for now, ..."""

    shown: dict[str, str] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)

    def of(self, key: str) -> tuple[object, ...]:
        """All that is known of one asset."""
        sets = (key in s for s in (self.rejected, self.missing, self.listed))
        return (self.shown.get(key), self.gone.get(key), *sets)

    def take(self, key: str, other: State) -> None:
        """Have of one asset what another version has."""
        for name in ("shown", "gone"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine.pop(key, None)
            mine |= {key: theirs[key]} if key in theirs else {}
        for name in ("rejected", "missing", "listed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine.discard(key)
            mine |= {key} & theirs

    def forget(self, keys: Iterable[str]) -> None:
        """Have never heard of some assets."""
        for key in keys:
            self.take(key, State())


@dataclass
class Branch:
    """A branch's newest state, and what was done to it since it began or was merged."""

    state: State = field(default_factory=State)
    base: State = field(default_factory=State)
    rewritten: bool = False
    common: tuple[str, int] = ("", 0)


class Versions(RuleBasedStateMachine):
    """A store beside its model; every rule does the same to both."""

    branches: Bundle[str] = Bundle("branches")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tokenmill-model-"))
        self.store = Store.of(str(self.folder / "store"))
        self.model = {"main": Branch()}
        self.parents: dict[str, str] = {}
        self.versions: dict[tuple[str, int], State] = {}
        self.tags: dict[str, tuple[str, int]] = {}
        self.denied: set[str] = set()
        self.count = 0
        self.add("main", frozenset("ab"), frozenset())

    def teardown(self) -> None:
        """All that is left is sound."""
        for name in self.model:
            on = self.store.on(name)
            assert verify_store(on, on.snapshot()).problems == ()
        shutil.rmtree(self.folder)

    def note(self, branch: str) -> None:
        """Remember what the newest version of a branch has to show."""
        head = self.store.on(branch).snapshot()
        self.versions[head.branch, head.number] = copy.deepcopy(self.model[branch].state)

    def visible(self, state: State) -> dict[str, str]:
        """What may be shown of a state."""
        return {key: text for key, text in state.shown.items() if key not in self.denied}

    @rule(
        branch=st.sampled_from(["main", "exp"]),
        keys=st.frozensets(KEYS, min_size=1, max_size=5),
        bad=st.frozensets(KEYS, max_size=2),
    )
    def add(self, branch: str, keys: frozenset[str], bad: frozenset[str]) -> None:
        """Tokenize new or changed assets, some of which are broken."""
        if branch not in self.model:
            return
        self.count += 1
        state, on = self.model[branch].state, self.store.on(branch)
        assets = {key: str(self.count) for key in sorted(keys)}
        known = state.shown.keys() | state.gone.keys() | state.rejected
        commit = encode_assets(on, assets, rejected=bad)
        back = keys & state.missing
        on.commit(replace(commit, replaced=frozenset(keys & known), returned=frozenset(back)))
        state.forget(keys)
        state.listed |= keys
        state.rejected |= keys & bad
        state.shown |= {key: text for key, text in assets.items() if key not in bad}
        self.note(branch)

    @rule(
        branch=st.sampled_from(["main", "exp"]),
        keys=st.frozensets(KEYS, min_size=1),
        drop=st.booleans(),
    )
    def lose(self, branch: str, keys: frozenset[str], drop: bool) -> None:
        """Find that the source does not list some assets any more."""
        if branch not in self.model:
            return
        state, on = self.model[branch].state, self.store.on(branch)
        lost = frozenset(keys & state.listed)
        on.commit(replace(encode_assets(on, {}), vanished=lost, drop_missing=drop))
        state.missing |= lost
        if drop:
            for key in state.missing & state.shown.keys():
                state.gone[key] = state.shown.pop(key)
        self.note(branch)

    @rule(branch=st.sampled_from(["main", "exp"]), keys=st.frozensets(KEYS, min_size=1))
    def find_again(self, branch: str, keys: frozenset[str]) -> None:
        """Find assets again as they were."""
        if branch not in self.model:
            return
        state, on = self.model[branch].state, self.store.on(branch)
        back = frozenset(keys & state.missing)
        on.commit(replace(encode_assets(on, {}), returned=back))
        state.missing -= back
        for key in back & state.gone.keys():
            state.shown[key] = state.gone.pop(key)
        self.note(branch)

    @precondition(lambda self: "exp" not in self.model)
    @rule()
    def branch_off(self) -> None:
        """Begin the other branch."""
        self.store.create_branch("exp")
        state = copy.deepcopy(self.model["main"].state)
        self.model["main"].rewritten = False
        self.model["exp"] = Branch(state, copy.deepcopy(state))
        self.model["main"].base = copy.deepcopy(state)
        self.model["exp"].common = ("main", self.store.snapshot().number)

    @precondition(lambda self: "exp" in self.model)
    @rule()
    def merge(self) -> None:
        """Bring the other branch home; both may not have touched one asset."""
        main, exp = self.model["main"], self.model["exp"]
        try:
            self.store.merge("exp")
        except ConflictError:
            touched = [
                {k for k in "abcdefghij" if side.state.of(k) != side.base.of(k)}
                for side in (main, exp)
            ]
            assert touched[0] & touched[1] or main.rewritten or exp.rewritten
            return
        except StoreError:
            assert exp.common not in self.versions
            return
        for key in "abcdefghij":
            if exp.state.of(key) != exp.base.of(key):
                main.state.take(key, exp.state)
        exp.base = copy.deepcopy(exp.state)
        head = self.store.on("exp").snapshot()
        exp.common = (head.branch, head.number)
        self.note("main")

    @rule(branch=st.sampled_from(["main", "exp"]), data=st.data())
    def restore(self, branch: str, data: st.DataObject) -> None:
        """Go back to any version that there is."""
        if branch not in self.model:
            return
        there = [n for b, n in self.versions if b == branch]
        if there:
            number = data.draw(st.sampled_from(there))
            self.store.on(branch).restore(f"{branch}:{number}")
            self.model[branch].state = copy.deepcopy(self.versions[branch, number])
            self.model[branch].rewritten = True
            self.note(branch)

    @rule(name=st.sampled_from(["v1", "v2", "v3"]))
    def tag(self, name: str) -> None:
        """Name the newest version; a name never moves."""
        head = self.store.snapshot()
        try:
            self.store.tag(name)
        except ConflictError:
            assert name in self.tags
        else:
            assert self.tags.setdefault(name, (head.branch, head.number)) == ("main", head.number)

    @rule(keys=st.frozensets(KEYS, min_size=1, max_size=2))
    def take_down(self, keys: frozenset[str]) -> None:
        """Hide assets everywhere and for ever."""
        takedown(self.store, keys=keys)
        self.denied |= keys
        self.noted()

    def noted(self) -> None:
        """Remember the newest versions that an operation on all branches may have made."""
        for name in self.model:
            self.note(name)

    @rule()
    def purge(self) -> None:
        """Remove what was taken down, and every version that held it."""
        purge(self.store, grace_s=0)
        execute_due(self.store)
        for branch in self.model.values():
            branch.state.forget(self.denied)
            branch.base.forget(self.denied)
            branch.rewritten = True
        for name, number in list(self.versions):
            try:
                version = self.store.at(f"{name}:{number}")
            except SnapshotNotFoundError:
                assert self.versions[name, number].listed & self.denied
                del self.versions[name, number]
            else:
                assert not self.denied & names_in(version)
        self.tags = {name: at for name, at in self.tags.items() if at in self.versions}
        self.noted()

    @rule(branch=st.sampled_from(["main", "exp"]))
    def compact(self, branch: str) -> None:
        """Make few shards of many; nothing else changes."""
        if branch in self.model:
            compact(self.store.on(branch), target_rows=6)
            self.model[branch].rewritten = True
            self.note(branch)

    @rule()
    def collect(self) -> None:
        """Sweep what no version needs, however young; all versions stay as they were."""
        gc(self.store, grace_s=0)

    @invariant()
    def every_version_shows_what_it_should(self) -> None:
        """Of all branches the newest and one older version, and every tag."""
        for name, branch in self.model.items():
            on = self.store.on(name)
            assert shown(on.at()) == self.visible(branch.state)
            head = on.snapshot()
            assert head.totals["samples"] == len(self.visible(branch.state))
        for (name, number), state in list(self.versions.items())[-4:-1]:
            assert shown(self.store.at(f"{name}:{number}")) == self.visible(state)
        assert self.store.tags() == {name: number for name, (_, number) in self.tags.items()}


def names_in(version: Version) -> set[str]:
    """Every asset that a version has anything of: listed, rejected, missing, shown or hidden."""
    storage = version.store.storage
    tables = (version.rejects(), version.missing(), version.tombstones())
    names = {key for table in tables for key in table.column("asset_key").to_pylist()}
    for part in version.snapshot.plans:
        names.update(k for b in listed(storage, part, ["key"]) for k in b.column("key").to_pylist())
    for path in version.segments(["path"]).column("path").to_pylist():
        if path:
            names.update(read_columns(storage, path, ["asset_key"]).column(0).to_pylist())
    return names


class ManyVersions(Versions):
    """The same at length."""


#: A failure is shown as it was found, to be tried again by its blob: to shrink it takes many
#: minutes, longer than a test may.
BRIEF = settings(
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)

TestVersions = Versions.TestCase
TestVersions.settings = settings(BRIEF, max_examples=12, stateful_step_count=16)
TestManyVersions = pytest.mark.slow(ManyVersions.TestCase)
TestManyVersions.settings = settings(BRIEF, max_examples=60, stateful_step_count=24)
