"""The feed's state: some 250 bytes that say where a training job stands, and in what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import JobError, StoreError
from tokenmill_schemas.strict import build

#: Format 1 had no mixtures, filters, packing or buckets, and whole content ids.
STATE_FORMAT = 2
#: Settings that are in the state as they are, or as digests.
_ORDER = (
    "seed",
    "shuffle",
    "batch_size",
    "drop_last",
    "packing",
    "buckets",
    "one_view",
    "follow",
)
#: Hex digits kept of what tells snapshots apart, and of what tells settings apart.
SNAPSHOT_DIGITS = 32
SETTING_DIGITS = 8
#: Characters of names that are kept.
NAME_LENGTH = 24
#: Bytes that a state has less than, as JSON.
MAX_BYTES = 300


@dataclass(frozen=True, slots=True)
class FeedState:
    """Where a feed stands.

    ``position`` counts the items of ``epoch`` that all ranks together have been given: samples, or
    windows of packed ones; the number of ranks is no part of it. ``snapshot`` tells the content of
    what is read, all stores of a mixture together; ``number`` is for people. ``groups`` are the
    column groups that are read, in which every sample shown has values. ``mix``, ``where`` and
    ``packing`` are digests of those settings, "" where they are not used; ``buckets`` is the stream
    whose shapes make batches, ``one_view`` says that items are assets, ``follow`` is the tag
    that ends a store that grows.

    ``taken`` counts the takedowns at that time, where they hide anything of the snapshot. A state
    that was carried over to another version says in ``carried`` which versions the epoch was shown
    from before (number, ``taken``, position), and in ``base`` which item the numbering of a later
    epoch begins with.
    """

    snapshot: str
    number: int
    seed: int
    shuffle: str
    batch_size: int
    drop_last: bool
    epoch: int
    position: int
    groups: tuple[str, ...] = ()
    mix: str = ""
    where: str = ""
    packing: str = ""
    buckets: str = ""
    one_view: bool = False
    follow: str = ""
    taken: int = 0
    base: tuple[int, ...] = ()
    carried: tuple[tuple[int, ...], ...] = ()
    format: int = STATE_FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the state as a JSON value; what is not used is left out."""
        unused = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        unused.pop("format")
        value = {k: v for k, v in asdict(self).items() if k not in unused or v != unused[k]}
        return {k: _lists(v) for k, v in value.items()}


def _lists(value: Any) -> Any:
    return [_lists(entry) for entry in value] if isinstance(value, tuple) else value


def setting_digest(value: Any) -> str:
    """Return what a state keeps of a setting: "" for none."""
    return digest(value)[:SETTING_DIGITS] if value else ""


def shortened(text: str) -> str:
    """Return what a state keeps of a name, or of several: the begin and a digest of long ones."""
    if len(text) <= NAME_LENGTH:
        return text
    return f"{text[: NAME_LENGTH - SETTING_DIGITS - 1]}~{digest(text)[:SETTING_DIGITS]}"


def short_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a state keeps of several names: one text of them if they are long."""
    joined = ", ".join(names)
    return names if len(joined) <= NAME_LENGTH else (shortened(joined),)


def state_from_json(value: Mapping[str, Any]) -> FeedState:
    """Return the state that `FeedState.to_json` wrote, in this format or an older one.

    Raises:
        JobError: it is no feed state, or one of a newer format.
    """
    if value.get("format") not in (1, STATE_FORMAT):
        raise JobError(
            f"is a feed state of format {value.get('format')!r}, this library reads 1 to "
            f"{STATE_FORMAT}: update tokenmill, or start the feed anew",
            path="state.format",
        )
    state: FeedState = build(FeedState, value, path="state")
    kept = state.snapshot[:SNAPSHOT_DIGITS], short_names(state.groups)
    return replace(state, snapshot=kept[0], groups=kept[1], format=STATE_FORMAT)


def check_state(state: FeedState, now: FeedState, *, uri: str) -> None:
    """Check that ``state`` may be restored into a feed whose state is ``now``.

    Raises:
        StoreError: it belongs to another snapshot.
        JobError: a setting differs, or the position is not one of this feed's.
    """
    check_settings_of(state, now)
    if state.snapshot != now.snapshot:
        mend = (
            "samples of it were taken down since, so begin with a new feed, whose order leaves "
            "them out, or carry the state over with feed.migrate; or it is another store's, "
            "branch's or diff's, so open that"
            if state.number == now.number
            else f"open the feed with ref={state.number} on the store that the state was made "
            "with, or carry the state over with feed.migrate"
        )
        raise StoreError(
            f"the state belongs to snapshot {state.number} (content {state.snapshot[:12]}), this "
            f"feed reads snapshot {now.number} (content {now.snapshot[:12]}): {mend}",
            uri=uri,
        )


def check_settings_of(state: FeedState, now: FeedState) -> None:
    """Check that ``state`` was made with the settings of a feed whose state is ``now``.

    Raises:
        JobError: a setting differs, or the position is no step.
    """
    for name, what in (("mix", "stores, weights or offsets"), ("where", "filter")):
        if getattr(state, name) != getattr(now, name):
            raise _other_samples(name, what, bool(getattr(state, name)))
    for name in _ORDER:
        was, given = getattr(state, name), getattr(now, name)
        if was != given:
            raise JobError(
                f"the state was made with {was!r}, this feed has {given!r}: the order of samples "
                "would change; use the setting of the state",
                path=f"feed.{name}",
            )
    if state.groups != now.groups:
        raise JobError(
            f"the state was made reading the column groups {list(state.groups)}, this feed reads "
            f"{list(now.groups)}: other samples would be shown; read the columns of those",
            path="feed.columns",
        )
    if state.epoch < 0 or state.position < 0 or state.position % state.batch_size:
        raise JobError(
            f"epoch {state.epoch}, position {state.position} is no step of batches of "
            f"{state.batch_size}",
            path="state.position",
        )


def _other_samples(name: str, what: str, had: bool) -> JobError:
    was = f"another {what} than this feed's" if had else f"no {what} of its own"
    return JobError(
        f"the state was made with {was}: other samples would be shown; use those of the state",
        path="feed.where" if name == "where" else "feed.mixture",
    )
