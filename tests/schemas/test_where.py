import decimal
import pickle
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.where import parse

TABLE = pa.table(
    {
        "asset_key": ["a", "b", "c", "d"],
        "aesthetic": pa.array([4.5, 5.5, None, float("nan")], pa.float32()),
        "licence": ["cc0", "cc0", "by", None],
        "asset.width": pa.array([256, 512, 1024, 2**31 - 1], pa.int32()),
        "view.flip": [True, False, True, None],
        "view.box": pa.array([[0.0, 1.0]] * 4, pa.list_(pa.float32(), 2)),
        "odd name": ["x", None, "it's", 'say "x"'],
        "big": pa.array([0, 2**53 + 1, 2**64 - 1, None], pa.uint64()),
        "day": pa.array([date(2024, 1, 1), date(2024, 6, 1), None, date(1969, 12, 31)]),
        "seen": pa.array([0, 1, 1_700_000_000_000, None], pa.timestamp("ms", tz="UTC")),
        "nothing": pa.nulls(4),
        "facts": [{"x": 1}] * 4,
    }
)


def rows(text: str, table: Any = TABLE) -> str:
    """Keys of the rows for which ``text`` holds, as one word."""
    mask = parse(text).mask(table)
    assert isinstance(mask, pa.BooleanArray)
    assert mask.null_count == 0
    return "".join(table.filter(mask).column("asset_key").to_pylist())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("aesthetic > 5 and licence = 'cc0'", "b"),
        ("asset.width between 300 and 1024", "bc"),
        ("asset.width not between 300 and 1024", "ad"),
        ("licence in ('by', 'nd')", "c"),
        ("licence not in ('by', 'nd')", "ab"),
        ("licence is null", "d"),
        ("licence is not null and not view.flip", "b"),
        ("view.flip", "ac"),
        ("not view.flip", "b"),
        ("view.flip = false or view.flip != false", "abc"),
        ("view.flip in (true, false)", "abc"),
        ("licence like 'c%'", "ab"),
        ("licence not like '__0'", "c"),
        ("\"odd name\" = 'it''s'", "c"),
        ('"odd name" like \'%"x_\'', "d"),
        ("aesthetic is null", "cd"),
        ("not aesthetic <= 5", "b"),
        ("5 < aesthetic", "b"),
        ("aesthetic < asset.width", "ab"),
        ("asset.width < big", "bc"),
        ("big = 9007199254740993", "b"),
        ("big > 9007199254740992.0 and big < 18446744073709551615", "b"),
        ("big in (9007199254740993, 1.5, -3, 1e300)", "b"),
        ("big not in (9007199254740993, 1.5)", "ac"),
        ("asset.width > 511.5", "bcd"),
        ("asset.width <= 511.5", "a"),
        ("asset.width < 1e10", "abcd"),
        ("asset.width > -1e10 and asset.width != 1e10", "abcd"),
        ("asset.width >= 1e10 or asset.width = 1e10", ""),
        ("day >= '2024-06-01'", "b"),
        ("day < '2024-01-01T00:00:01'", "ad"),
        ("day in ('1969-12-31', '2024-01-01T12:00')", "d"),
        ("seen > '1970-01-01T00:00:00.0005'", "bc"),
        ("seen = '1970-01-01T01:00:00+01:00'", "a"),
        ("seen > '9999-12-31' or day > '0001-01-01'", "abd"),
        ("nothing = 1 or nothing = 'x' or nothing in (1, 2) or nothing < aesthetic", ""),
        ("nothing or not nothing or nothing like '%'", ""),
        ("facts is not null and view.box is not null", "abcd"),
        ("true", "abcd"),
        ("not (true and view.flip)", "b"),
        ("NOT Licence_ = 1 OR TRUE", None),
    ],
)
def test_a_filter_keeps_the_rows_for_which_it_is_true(text: str, wanted: str | None) -> None:
    """Null is unknown, integers compare exactly, a name is taken as it is written."""
    if wanted is None:
        with pytest.raises(JobError, match="unknown column Licence_"):
            rows(text)
    else:
        assert rows(text) == wanted
        assert rows(text, TABLE.to_batches()[0].slice(1)) == wanted.replace("a", "")
        assert rows(text, pa.concat_tables([TABLE, TABLE.slice(0, 0)])) == wanted
        assert rows(text, TABLE.slice(0, 0)) == ""
        assert rows(text, pa.table({n: pa.chunked_array([], f.type) for n, f in _fields()})) == ""


def _fields() -> list[tuple[str, pa.Field]]:
    return [(field.name, field) for field in TABLE.schema]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a > 5 and b", "b AND a>+5.0"),
        ("not (a > 5 or b)", "a<=5 and not b"),
        ("not (a = 1 and b in (1, 2))", "a <> 1 or b not in (2.0, 1, 1)"),
        ("a between 1 and 2", "2 >= a and 1e0 <= a"),
        ("not a between 1 and 2", "a not between 1 and 2"),
        ("a in (3)", "3 = a"),
        ("a not in (3, 3.0)", "a != 3"),
        ("flip = true", "not not flip"),
        ("flip != true", "flip = false"),
        ("not flip in (false)", "flip"),
        ("a is not null", "not a is null"),
        ("a < b", '"b" > "a"'),
        ("a and (b and (c or a) and c)", "((c and b)) and (a or c) and a"),
        ("true and a", "a or false"),
        ("a or not true", "a"),
        ("a = -0.0", "a = 0"),
        ("a = 2 or b or a in (3, 1) or a = 2", "b or a in (1, 2, 3)"),
        ("a != 2 and a not in (3, 1)", "not (a = 3 or a = 1 or a = 2)"),
        ("a = 1 or (b and a = 2 or a = 2)", "a in (1, 2) or (a = 2 and b)"),
        ("a = 0.1", "a = 1e-1"),
    ],
)
def test_equal_meaning_has_one_text(one: str, other: str) -> None:
    """Plans hash the canonical text: order, negation and spelling must not show in it."""
    assert parse(one) == parse(other)
    assert hash(parse(one)) == hash(parse(other))
    assert str(parse(one)) == parse(other).text


def test_the_canonical_text_is_for_people() -> None:
    """It is short, has parentheses only where they count, and quotes what needs quotes."""
    text = "NOT (view.flip OR \"odd name\"='it''s') AND (x>1 OR \"like\" IS NULL)"
    where = parse(text)
    assert where.text == "(\"like\" is null or x > 1) and \"odd name\" != 'it''s' and not view.flip"
    assert where.columns == ("like", "odd name", "view.flip", "x")
    assert where.source == text
    assert parse(where.text) == where
    assert pickle.loads(pickle.dumps(where)) == where
    assert parse('"a.b" = 1') == parse("a.b = 1")


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("aesthetic > > 5", "expected a column or a value", 12),
        ("aesthetic == 5", "expected a column or a value", 11),
        ("", "expected a column or a value", 0),
        ("   ", "expected a column or a value", 3),
        ("licence = null", "nothing equals null, write 'is null'", 10),
        ("licence in ('a', null)", "nothing equals null", 17),
        ("licence in ()", "expected a value", 12),
        ("licence in ('a', 1)", "this is a number, the list began with text", 17),
        ("licence in 'a'", "expected '('", 11),
        ("(view.flip", "expected ')'", 10),
        ("view.flip)", "expected 'and', 'or' or the end", 9),
        ("view.flip and", "expected a column or a value", 13),
        ("licence not 'a'", "expected 'in', 'like' or 'between' after 'not'", 12),
        ("licence is 5", "expected 'null'", 11),
        ("licence like 5", "'like' takes a 'text'", 13),
        ("licence like 'a\\'", "ends in an open backslash", 13),
        ("aesthetic between 1 or 2", "expected 'and'", 20),
        ("5", "expected a comparison after this value", 1),
        ("1 = 1", "a comparison needs a column on one side", 4),
        ("5 in (1, 2)", "expected a column's name", 0),
        ("5 is null", "expected a column's name", 0),
        ("aesthetic = 1e309", "out of the range of float64", 12),
        ("aesthetic = 1e-999999999", "out of the range of float64", 12),
        (f"aesthetic = {'9' * 5000}", "out of the range of float64", 12),
        ("aesthetic > 5abc", "cannot read this number", 12),
        ("aesthetic > 0x10", "cannot read this number", 12),
        ("aesthetic * 2 > 5", "there is no arithmetic", 10),
        ("licence = 'cc0", "this ' is never closed", 10),
        ('"licence = 1', 'this " is never closed', 0),
        ("größe > 5", "stand in double quotes", 2),
        ("licence = '\ud800'", "lone surrogate", 10),
        ("licence; drop table x", "cannot read ';'", 7),
        ("(" * 200 + "view.flip" + ")" * 200, "more than 100 nested", 101),
        ("not " * 50_000 + "view.flip", "more than 100 nested", 404),
        ("view.box = 1", "of type fixed_size_list<item: float>[2], which cannot", 0),
        ("facts = 1", "of type struct<x: int64>, which cannot be compared", 0),
        ("view.flip and asset.widht > 5", "column asset.widht; did you mean 'asset.width'?", 14),
        ("aesthetic > '5'", "aesthetic is a number (float), this is text", 12),
        ("licence > 5", "column licence is text (string), this is a number", 10),
        ("licence in (1, 2)", "column licence is text (string), this is a number", 12),
        ("licence", "column licence is text, not a boolean; compare it", 0),
        ("aesthetic like '5%'", "column aesthetic is a number, not text", 0),
        ("view.flip < true", "view.flip is a boolean, which has no order", 0),
        ("aesthetic = licence", "column aesthetic is float, column licence is string", 12),
        ("day = seen", "column day is date32[day], column seen is timestamp", 6),
        ("day > 'yesterday'", "column day: 'yesterday' is no ISO 8601 day or time", 6),
        ("day > '2024-01-01T00:00Z'", "names a time zone, the column (date32[day]) has none", 6),
        ("day > 5", "column day is a day or a time (date32[day]), this is a number", 6),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_place(
    text: str, message: str, caret: int
) -> None:
    """The message says what was expected or does not fit; a caret stands below its first letter."""
    with pytest.raises(JobError) as caught:
        parse(text).check(TABLE.schema)
    said, line, mark = str(caught.value).split("\n")
    assert message in said
    at = mark.index("^")
    assert text[caret : caret + 1].replace("\ud800", "?") == line[at : at + 1]
    assert said.endswith(f"(character {caret + 1}, at {line[at : at + 20] or 'the end'})")
    assert len(line) < 130
    str(caught.value).encode()
    with pytest.raises(JobError, match="character"):
        parse(text).mask(TABLE)


def test_a_filter_may_stand_on_several_lines() -> None:
    """The caret points into the line at fault, not into the whole text."""
    assert rows("view.flip\n  and\tlicence\n= 'cc0'") == "a"
    with pytest.raises(JobError, match=r"\n  and \?\n      \^$"):
        parse("view.flip\nand ?\nor true")


def test_columns_of_other_encodings_are_read() -> None:
    """Dictionaries, large strings, decimals and halves hold values like any other."""
    table = pa.table(
        {
            "asset_key": ["a", "b", "c"],
            "kind": pa.array(["x", "y", None]).dictionary_encode(),
            "large": pa.array(["x", "x", "y"], pa.large_string()),
            "price": pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.50"), None]),
            "half": pa.array([0.5, 1.5, -0.0], pa.float16()),
            "small": pa.array([1, 200, None], pa.uint8()),
            "signed": pa.array([-1, 200, 3], pa.int64()),
            "wide": pa.array([1, 2**64 - 1, 3], pa.uint64()),
            "zoned": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("ns", "UTC")),
        }
    )
    assert rows("kind = large", table) == "a"
    assert rows("kind like 'y' or large = 'y'", table) == "bc"
    assert rows("large in ('y')", table) == "c"
    assert rows("price in (1.5, 7) or price > 2.4", table) == "ab"
    assert rows("half in (0, 1.5) and half = half", table) == "bc"
    assert rows("small = signed", table) == "b"
    assert rows("signed < wide", table) == "ab"
    assert rows("small < 300 and small > -1", table) == "ab"
    assert rows("zoned >= '2024-01-01' and zoned < '9999-01-01'", table) == "abc"


def test_two_columns_of_one_name_are_refused() -> None:
    """Which of them is meant cannot be told."""
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(JobError, match="column x"):
        parse("x = 1").mask(twice)
