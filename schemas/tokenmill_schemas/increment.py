"""Increments: what a listing brings that a store does not have, and what it no longer lists.

A `Known` is what a store's plans list; a `Diff` holds a new listing against it, batch by batch.
Both keep digests and no names: some 60 bytes an asset that is known, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill_schemas.asset import DUPLICATE
from tokenmill_schemas.plan import DIGEST_BYTES, digests

Digests = npt.NDArray[np.bytes_]
Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

#: What stands between a source's own version of an asset and the sha256 (hex) of its bytes.
CONTENT = ";sha256="
_CONTENT = f"{CONTENT}[0-9a-f]{{64}}$"
_DIGEST = f"S{DIGEST_BYTES}"
#: What tells an asset, by its source, from an earlier one of its key.
_PLACE = ("uri", "locator", "version")

#: From rows of a listing to the sha256 (hex) of each one's bytes, "" where they cannot be had.
ContentOf = Callable[[pa.RecordBatch], list[str]]


def _array(found: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(found), _DIGEST)


def _heads(keys: Digests) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each digest, as numbers that sort as the digests do."""
    return np.frombuffer(keys.tobytes(), ">u8")[::2].astype(np.uint64)


def _places(batch: pa.RecordBatch) -> Digests:
    """Digests of where assets lie and of their sources' versions, without hashes of content."""
    own = pc.replace_substring_regex(batch.column("version"), _CONTENT, "")
    return _array(digests(_with(batch, "version", own), _PLACE))


def _contents(versions: pa.Array) -> Digests:
    """The first half of each version's sha256, zeros where it has none."""
    has = pc.match_substring_regex(versions, _CONTENT)
    if not pc.any(has, min_count=0).as_py():
        return np.zeros(len(versions), _DIGEST)
    texts = pc.if_else(has, pc.utf8_slice_codeunits(versions, start=-64), "").to_pylist()
    return _halves(texts)


def _halves(hashes: Iterable[str]) -> Digests:
    size = 2 * DIGEST_BYTES
    return _array([bytes.fromhex(sha256[:size].ljust(size, "0")) for sha256 in hashes])


def _last_of_each(keys: Digests) -> Positions:
    """Return where each key stands last, in the order of the keys."""
    order: Positions = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last: Positions = order[np.append(ordered[1:] != ordered[:-1], True)[: len(order)]]
    return last


@dataclass(frozen=True, slots=True)
class Known:
    """The assets that a store's plans list, one entry each, sorted by ``keys``.

    ``keys`` are digests of their keys, ``heads`` how those begin; ``places`` of their uri, locator
    and source's version; ``contents`` halves of the sha256 of their bytes (zeros: unknown).
    ``own`` marks those that the job at hand listed last, ``missing`` those that it has marked so.
    """

    keys: Digests
    heads: npt.NDArray[np.uint64]
    places: Digests
    contents: Digests
    own: Mask
    missing: Mask

    @classmethod
    def of(
        cls, listed: Iterable[tuple[pa.RecordBatch, bool]] = (), missing: Sequence[bytes] = ()
    ) -> Known:
        """Return what ``listed`` has: rows of plans, oldest first, and whether they are own.

        Of two rows of one key the later one counts. ``missing`` are digests of keys.
        """
        # Byte arrays grow in place, where lists of arrays would be there twice when joined.
        keys, places, contents, owns = (bytearray() for _ in range(4))
        for batch, own in listed:
            hashes = _contents(batch.column("version"))
            if (hashes != b"").any():
                contents += bytes(len(keys) - len(contents)) + hashes.tobytes()
            keys += b"".join(digests(batch, ("key",)))
            places += _places(batch).tobytes()
            owns += bytes([own]) * batch.num_rows
        contents += bytes(len(keys) - len(contents)) if contents else b""
        order = _last_of_each(np.frombuffer(keys, _DIGEST))
        sorted_keys = np.frombuffer(keys, _DIGEST)[order]
        known = cls(
            keys=sorted_keys,
            heads=_heads(sorted_keys),
            places=np.frombuffer(places, _DIGEST)[order],
            # Most stores know none: pages of zeros that nobody writes take no memory.
            contents=np.frombuffer(contents, _DIGEST)[order]
            if contents
            else np.zeros(len(order), _DIGEST),
            own=np.frombuffer(owns, np.bool_)[order],
            missing=np.zeros(len(order), np.bool_),
        )
        known.missing[known.among(missing)] = True
        return known

    def find(self, keys: Digests) -> Positions:
        """Return the entry of each of ``keys``, -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        asked = _heads(keys)
        at = np.searchsorted(self.heads, asked)
        left = np.flatnonzero(at < len(self.heads))
        # Once, but for digests that begin alike.
        while len(left):
            left = left[self.heads[at[left]] == asked[left]]
            hit = self.keys[at[left]] == keys[left]
            found[left[hit]] = at[left[hit]]
            left = left[~hit]
            at[left] += 1
            left = left[at[left] < len(self.heads)]
        return found

    def among(self, keys: Iterable[bytes]) -> Positions:
        """Return the entries of those of ``keys`` that have one."""
        found = self.find(_array(list(keys)))
        return found[found >= 0]


@dataclass(slots=True)
class Diff:
    """Sorts a listing, batch by batch, into what must be tokenized and what the store has.

    ``denied`` are digests of keys that may not come back. ``content`` hashes what has another
    place or version than the store knows; None where the source's version is all that counts.
    With ``replace`` an asset in another version is tokenized again, else it is left.

    Every row is one of ``new``, ``unchanged``, ``changed`` and ``withheld`` (denied). A row whose
    key an earlier one of the listing has counts in ``duplicates`` too; it stays in the plan under a
    key of its own, so that the ledger accounts for it. ``changed_keys`` and ``returned_keys`` (of
    those that were missing) are arrays of names.
    """

    known: Known
    denied: frozenset[bytes] = frozenset()
    content: ContentOf | None = None
    replace: bool = True
    new: int = 0
    unchanged: int = 0
    changed: int = 0
    withheld: int = 0
    duplicates: int = 0
    changed_keys: list[pa.Array] = field(default_factory=list)
    returned_keys: list[pa.Array] = field(default_factory=list)
    _listed: bytearray = field(init=False)
    _seen: set[bytes] = field(default_factory=set)
    _copies: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._listed = bytearray(len(self.known.keys))

    @property
    def assets(self) -> int:
        """Rows that were listed."""
        return self.new + self.unchanged + self.changed + self.withheld

    @property
    def returned(self) -> int:
        """Assets that were missing and are listed again."""
        return sum(map(len, self.returned_keys))

    def sift(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of ``batch`` that have to be tokenized or accounted for."""
        batch, keys = self._allowed(batch)
        entries = self.known.find(_array(keys))
        batch = self._mark_duplicates(batch, keys, entries)
        batch, same = self._compare(batch, entries)
        old = entries >= 0
        changed = old & ~same
        self.new += int(np.count_nonzero(~old))
        self.unchanged += int(np.count_nonzero(same))
        self.changed += int(np.count_nonzero(changed))
        back = np.zeros(len(entries), np.bool_)
        back[old] = self.known.missing[entries[old]]
        for names, mask in ((self.changed_keys, changed), (self.returned_keys, back)):
            if mask.any():
                names.append(_where(batch, mask).column("key"))
        return _where(batch, ~old | changed if self.replace else ~old)

    def _allowed(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[bytes]]:
        keys = digests(batch, ("key",))
        if self.denied.isdisjoint(keys):
            return batch, keys
        allowed = [key not in self.denied for key in keys]
        self.withheld += len(keys) - sum(allowed)
        return batch.filter(pa.array(allowed)), [k for k in keys if k not in self.denied]

    def _is_first(self, key: bytes, entry: int) -> bool:
        """Note that a key is listed; whether it had not been."""
        if entry >= 0:
            before, self._listed[entry] = self._listed[entry], 1
            return not before
        count = len(self._seen)
        self._seen.add(key)
        return len(self._seen) > count

    def _mark_duplicates(
        self, batch: pa.RecordBatch, keys: list[bytes], entries: Positions
    ) -> pa.RecordBatch:
        pairs = enumerate(zip(keys, entries.tolist(), strict=True))
        repeated = [row for row, (key, entry) in pairs if not self._is_first(key, entry)]
        if not repeated:
            return batch
        columns: dict[str, list[Any]] = {n: batch.column(n).to_pylist() for n in ("key", "locator")}
        for row in repeated:
            self.duplicates += 1
            columns["key"][row], entries[row] = self._renamed(columns["key"][row], keys[row])
            columns["locator"][row] = DUPLICATE
        for name, values in columns.items():
            batch = _with(batch, name, pa.array(values, pa.string()))
        return batch

    def _renamed(self, name: str, key: bytes) -> tuple[str, int]:
        """Return a name that no row has yet, numbered by its own key's rows, and its entry."""
        while True:
            self._copies[key] = number = self._copies.get(key, 0) + 1
            made = pa.record_batch({"key": [f"{name}#duplicate-{number}"]})
            digest = digests(made, ("key",))
            entry = int(self.known.find(_array(digest))[0])
            if self._is_first(digest[0], entry):
                return str(made["key"][0]), entry

    def _compare(self, batch: pa.RecordBatch, entries: Positions) -> tuple[pa.RecordBatch, Mask]:
        """Tell which rows the store has as they are; the others get their content's hash."""
        old = np.flatnonzero(entries >= 0)
        same = np.zeros(len(entries), np.bool_)
        if len(old):
            same[old] = self.known.places[entries[old]] == _places(batch.take(pa.array(old)))
        if self.content is None:
            return batch, same
        return self._compare_contents(batch, entries, same)

    def _compare_contents(
        self, batch: pa.RecordBatch, entries: Positions, same: Mask
    ) -> tuple[pa.RecordBatch, Mask]:
        versions = batch.column("version").to_pylist()
        # A source that tells no version tells no change either.
        rows = np.flatnonzero(~same | np.array([not version for version in versions], np.bool_))
        if self.content is None or not len(rows):
            return batch, same
        hashes = self.content(batch.take(pa.array(rows)))
        read = np.array([bool(sha256) for sha256 in hashes])
        known = np.zeros(len(rows), _DIGEST)
        old = entries[rows] >= 0
        known[old] = self.known.contents[entries[rows][old]]
        same[rows] = np.where(read, known == _halves(hashes), same[rows])
        for row, sha256 in zip(rows.tolist(), hashes, strict=True):
            versions[row] += f"{CONTENT}{sha256}" if sha256 else ""
        return _with(batch, "version", pa.array(versions, pa.string())), same

    @property
    def there(self) -> int:
        """Assets that the job listed before, by the store: its own, but for the missing ones."""
        return int(np.count_nonzero(self._own()))

    @property
    def gone(self) -> int:
        """Of those, the ones that this listing does not have, once it is complete."""
        return int(np.count_nonzero(self._gone()))

    def vanished(self, planned: Iterable[pa.RecordBatch]) -> Iterator[pa.Array]:
        """Yield the keys of what is gone, found among the keys of the plans, each once."""
        gone = self._gone()
        for batch in planned if gone.any() else ():
            entries = self.known.find(_array(digests(batch, ("key",))))
            hit = entries >= 0
            hit[hit] = gone[entries[hit]]
            gone[entries[hit]] = False
            if hit.any():
                yield _where(batch, hit).column("key")

    def _own(self) -> Mask:
        own = self.known.own & ~self.known.missing
        own[self.known.among(self.denied)] = False
        return own

    def _gone(self) -> Mask:
        return self._own() & ~np.frombuffer(self._listed, np.bool_)


def _where(batch: pa.RecordBatch, mask: Mask) -> pa.RecordBatch:
    return batch if mask.all() else batch.filter(pa.array(mask))


def _with(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    index = batch.schema.get_field_index(name)
    return batch.set_column(index, batch.schema.field(index), values)
