"""Which cron expressions and time zones a job may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.cron import check_cron, check_timezone
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import parse_job

GOOD = [
    "* * * * *",
    "*/15 0-6,22 1,15 jan-MAR mon-fri",
    "0 3 l * *",
    "30 4 * * fri,sun/2",
    "0 0 * * 5#2",
    "0 0 * * L5",
]
BAD = {
    "* * * *": "4 fields",
    "0 * * * * *": "6 fields",
    "60 * * * *": "'60' as minute",
    "* 24 * * *": "'24' as hour",
    "* * 0 * *": "'0' as day of month",
    "* * * febr *": "'febr' as month",
    "* * * * 8": "'8' as day of week",
    "*/0 * * * *": "minute",
    "1-61 * * * *": "minute",
    "1,,2 * * * *": "'' as minute",
    "-5 * * * *": "minute",
    "@daily": "1 fields",
    "² * * * *": "minute",
}


@pytest.mark.parametrize("text", GOOD)
def test_crontab_expressions_are_taken(text: str) -> None:
    """Lists, ranges, steps, names in any case, and Quartz' L and #."""
    check_cron(text)


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_cron_is_refused_with_its_field(text: str) -> None:
    """The message says which field it is."""
    with pytest.raises(ValueError, match="cron ") as refused:
        check_cron(text)
    assert BAD[text] in str(refused.value)


FIELDS = st.tuples(*(st.integers(*r) for r in [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]))


@given(FIELDS, FIELDS)
def test_every_value_and_range_within_the_bounds_is_taken(
    low: tuple[int, ...], high: tuple[int, ...]
) -> None:
    """Also ranges that wrap around, of which the scheduler has the last word."""
    check_cron(" ".join(map(str, low)))
    check_cron(" ".join(f"{a}-{b}/2" for a, b in zip(low, high, strict=True)))


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "UTC+1"])
def test_a_time_zone_must_be_known(name: str) -> None:
    """Names of the IANA database, and no paths."""
    check_timezone("Europe/Paris")
    with pytest.raises(ValueError, match="IANA"):
        check_timezone(name)


@pytest.mark.parametrize("schedule", [{"cron": "often"}, {"timezone": "Mars/Base"}])
def test_a_job_with_a_wrong_schedule_is_refused(schedule: dict[str, str]) -> None:
    """By every command that reads it."""
    table = {
        "name": "j",
        "source": {"kind": "files"},
        "tokenizer": {"kind": "patch_vq"},
        "store": {"uri": "s"},
        "schedule": schedule,
    }
    with pytest.raises(JobError) as refused:
        parse_job(table)
    assert refused.value.path == "schedule"
