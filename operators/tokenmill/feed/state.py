"""The feed's state: some 200 bytes that say where a training job stands, and in what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenmill_schemas.errors import JobError, StoreError
from tokenmill_schemas.strict import build

STATE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FeedState:
    """Where a feed stands.

    ``position`` counts the samples of ``epoch`` that all ranks together have been given: the
    number of ranks is no part of it. ``snapshot`` is the content id, ``number`` is for people.
    ``groups`` are the column groups that are read, in which every sample shown has values.
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
    format: int = STATE_FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the state as a JSON value; without groups the key is left out."""
        value = asdict(self) | {"groups": list(self.groups)}
        return value if self.groups else {k: v for k, v in value.items() if k != "groups"}


def state_from_json(value: Mapping[str, Any]) -> FeedState:
    """Return the state that `FeedState.to_json` wrote.

    Raises:
        JobError: it is no feed state, or one of a newer format.
    """
    if value.get("format") != STATE_FORMAT:
        raise JobError(
            f"is a feed state of format {value.get('format')!r}, this library reads "
            f"{STATE_FORMAT}: update tokenmill, or start the feed anew",
            path="state.format",
        )
    return build(FeedState, value, path="state")


def check_state(state: FeedState, now: FeedState, *, uri: str) -> None:
    """Check that ``state`` may be restored into a feed whose state is ``now``.

    Raises:
        StoreError: it belongs to another snapshot.
        JobError: a setting differs, or the position is not one of this feed's.
    """
    if state.snapshot != now.snapshot:
        mend = (
            "samples of it were taken down since, so begin with a new feed, whose order leaves "
            "them out; or it is another store's, branch's or diff's, so open that"
            if state.number == now.number
            else f"open the feed with ref={state.number} on the store that the state was made with"
        )
        raise StoreError(
            f"the state belongs to snapshot {state.number} (content {state.snapshot[:12]}), this "
            f"feed reads snapshot {now.number} (content {now.snapshot[:12]}): {mend}",
            uri=uri,
        )
    for name in ("seed", "shuffle", "batch_size", "drop_last"):
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
