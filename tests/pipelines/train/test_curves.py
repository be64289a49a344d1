import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_pipelines.report.curves import HEIGHT, MAX_POINTS, WIDTH, curve, ticks


def places(line: str) -> list[tuple[float, float]]:
    """The points of a polyline."""
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(1, 50))
def test_every_point_lies_in_the_drawing(values: list[float], stride: int) -> None:
    """From the first to the last step, whatever the values; few enough points to draw."""
    drawn = curve([((i + 1) * stride, value) for i, value in enumerate(values)], level=0.0)
    assert drawn is not None
    for line in (drawn.points, drawn.smooth):
        points = places(line)
        assert len(points) <= MAX_POINTS + 1
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
        assert points[-1][0] == WIDTH
    assert drawn.level_y is not None
    assert 0 <= drawn.level_y <= HEIGHT
    assert all(-1e-6 <= tick.percent <= 100.000001 for tick in (*drawn.x_ticks, *drawn.y_ticks))


def test_higher_values_are_drawn_higher() -> None:
    """SVG's y points down."""
    drawn = curve([(1, 3.0), (2, 1.0)], level=2.0)
    assert drawn is not None
    (_, high), (_, low) = places(drawn.points)
    assert high < drawn.level_y < low  # type: ignore[operator]  # there is a level


def test_nothing_finite_is_no_chart() -> None:
    """A loss that is NaN from the start has no curve; later ones are left out."""
    assert curve([]) is None
    assert curve([(1, math.nan)]) is None
    drawn = curve([(1, 2.0), (2, math.nan), (3, 1.0)])
    assert drawn is not None
    assert len(places(drawn.points)) == 2


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 2400, [0, 500, 1000, 1500, 2000]), (2.9, 6.3, [3, 4, 5, 6]), (0.0, 0.1, None)],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, wanted: list[float]) -> None:
    """Some five of them."""
    found = ticks(low, high)
    assert wanted is None or found == wanted
    assert 3 <= len(found) <= 7
    assert all(low <= tick <= high for tick in found)
