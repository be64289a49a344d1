import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.asset import ASSET_NAMES, DUPLICATE, listing_schema
from tokenmill_schemas.increment import Diff, Known
from tokenmill_schemas.plan import Unit, missing, split, unit_id

SCHEMA = listing_schema(pa.schema([pa.field("caption", pa.string()), pa.field("n", pa.int64())]))

Row = tuple[str, str, str | None, int | None]

#: key, version, caption, n; few keys, so that they repeat.
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "käse", "d/e", "f", "g"]),
        st.sampled_from(["v1", "v2"]),
        st.none() | st.text(max_size=3),
        st.none() | st.integers(-5, 5),
    ),
    max_size=20,
)


def batch(rows: list[Row]) -> pa.RecordBatch:
    """A listing of these rows."""
    core = [(key, f"s3://x/{key}", "", "image", 5, version) for key, version, _, _ in rows]
    columns: dict[str, list[str | int | None]]
    columns = {name: [row[i] for row in core] for i, name in enumerate(ASSET_NAMES)}
    columns["caption"] = [row[2] for row in rows]
    columns["n"] = [row[3] for row in rows]
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def cut(whole: pa.RecordBatch, data: st.DataObject) -> list[pa.RecordBatch]:
    """The same rows in batches of drawn sizes."""
    parts, start = [], 0
    while start < whole.num_rows:
        size = data.draw(st.integers(1, whole.num_rows - start))
        parts.append(whole.slice(start, size))
        start += size
    return parts


@given(ROWS, st.integers(1, 7), st.data())
def test_units_do_not_depend_on_how_a_listing_is_cut(
    rows: list[Row], size: int, data: st.DataObject
) -> None:
    """Regrouping keeps all rows in order, fills every unit but the last, and gives equal ids."""
    whole = batch(rows)
    units = list(split(cut(whole, data), size))
    assert all(unit.num_rows == size for unit in units[:-1])
    assert all(0 < unit.num_rows <= size for unit in units)
    merged = pa.concat_tables([SCHEMA.empty_table(), *units])
    assert merged.equals(pa.Table.from_batches([whole]))
    again = list(split([whole], size))
    assert [unit_id("f", "l", u) for u in units] == [unit_id("f", "l", u) for u in again]


@given(ROWS, ROWS)
def test_a_units_id_tells_its_rows_and_settings_apart(first: list[Row], second: list[Row]) -> None:
    """Ids are equal if and only if rows, fingerprint and layout are."""
    one, two = (pa.Table.from_batches([batch(rows)]) for rows in (first, second))
    assert (unit_id("f", "l", one) == unit_id("f", "l", two)) == (first == second)
    assert unit_id("f", "l", one) != unit_id("g", "l", one)
    assert unit_id("f", "l", one) != unit_id("f", "m", one)
    assert len(unit_id("f", "l", one)) == 32


def test_texts_that_run_together_are_told_apart() -> None:
    """``["ab", "c"]`` and ``["a", "bc"]`` are different listings, and so are null and "None"."""
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")]
    ids = {unit_id("", "", pa.table({"key": list(pair)})) for pair in pairs}
    assert len(ids) == len(pairs)
    nulls = [pa.table({"c": pa.array([v], pa.string())}) for v in (None, "None", "[None]", "")]
    assert len({unit_id("", "", table) for table in nulls}) == 4


@given(ROWS, st.data())
def test_everything_is_new_once_and_then_known(rows: list[Row], data: st.DataObject) -> None:
    """Of a first listing every row is kept under a key of its own; of the next, none."""
    whole = batch(rows)
    first = Diff(Known.of())
    kept = pa.Table.from_batches([first.sift(b) for b in cut(whole, data)], schema=SCHEMA)
    keys = kept.column("key").to_pylist()
    assert len(set(keys)) == len(keys) == len(rows)
    assert first.duplicates == len(rows) - len({row[0] for row in rows})
    second = Diff(Known.of([(b, True) for b in kept.to_batches()]))
    left = [second.sift(b) for b in cut(whole, data)]
    assert sum(b.num_rows for b in left) == 0
    assert (second.unchanged, second.changed) == (len(rows), 0)


@given(ROWS)
def test_the_first_of_equal_keys_is_kept_and_the_others_are_marked(rows: list[Row]) -> None:
    """A duplicate keeps its companions, says that it is one, and is never tokenized."""
    kept = Diff(Known.of()).sift(batch(rows)).to_pylist()
    seen: set[str] = set()
    for row, made in zip(rows, kept, strict=True):
        assert (made["caption"], made["n"], made["version"]) == (row[2], row[3], row[1])
        assert (made["locator"] == DUPLICATE) == (row[0] in seen)
        assert (made["key"] == row[0]) == (row[0] not in seen)
        seen.add(row[0])


@given(
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("abcdef")),
)
def test_new_unchanged_and_changed_are_told_apart(
    known: set[str], listed: set[str], touched: set[str]
) -> None:
    """An asset of another version counts as changed and is left as it is."""
    store = Known.of([(batch([(key, "v1", None, 0) for key in sorted(known)]), True)])
    diff = Diff(store, replace=False)
    rows: list[Row] = [(k, "v2" if k in touched else "v1", None, 0) for k in sorted(listed)]
    new = diff.sift(batch(rows)).column("key").to_pylist()
    assert new == sorted(listed - known)
    assert diff.changed == len(listed & known & touched)
    assert diff.unchanged == len((listed & known) - touched)


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.sets(st.sampled_from("abcdef")))
def test_only_units_without_a_receipt_are_to_do(names: list[str], done: set[str]) -> None:
    """In plan order."""
    units = [Unit(name, "p", i, 1) for i, name in enumerate(names)]
    assert [u.unit_id for u in missing(units, done)] == [n for n in names if n not in done]
