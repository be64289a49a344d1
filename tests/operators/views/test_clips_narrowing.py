from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenmill.views.base import Pixels
from tokenmill.views.narrowing import Route, _in_doubt, narrowed, route
from tokenmill.views.resize import Filter, Rule, apply, fit, owned

RULES: tuple[Rule, ...] = (
    "adm", "bicubic", "bilinear", "lanczos", "var", "unitok",
    "squash_bicubic", "squash_bilinear", "cover", "taming",
)  # fmt: skip
FILMS = [(1280, 720), (720, 1280), (854, 480), (640, 480), (176, 144), (1920, 816), (999, 777)]


def noise(width: int, height: int) -> Pixels:
    """A frame without symmetry, and with the extremes that make filters clip."""
    rng = np.random.default_rng(width * height)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[rng.random((height, width)) < 0.3] = 255
    return pixels


def saved(way: Route) -> float:
    """Return the part of the output columns and rows that is not computed."""
    done = math.prod(n.out[1] - n.out[0] for s in way.steps[-1:] for n in (s.across, s.down))
    return 1 - done / math.prod(way.how.steps[-1][0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("source", FILMS)
def test_films_are_resized_to_the_bit(rule: Rule, source: tuple[int, int]) -> None:
    """At 256 and at 100 pixels, whatever is left out."""
    rgb = noise(*source)
    for side in (256, 100):
        how = fit(rule, (side, side), source)
        got = route(how, source).pixels(rgb)
        assert np.array_equal(got, owned(apply(Image.fromarray(rgb), how)))
        assert got.flags.owndata
        assert got.flags.c_contiguous


@given(st.sampled_from(RULES), st.tuples(st.integers(1, 300), st.integers(1, 300)), st.data())
@settings(max_examples=150, deadline=None)
def test_any_size_is_resized_to_the_bit(
    rule: Rule, source: tuple[int, int], data: st.DataObject
) -> None:
    """Odd sizes, enlargements, single rows: the same pixels as without leaving anything out."""
    side = data.draw(st.integers(1, 120))
    shape = side, side
    if rule.startswith(("squash", "cover")):
        shape = side, data.draw(st.integers(1, 120))
    how = fit(rule, shape, source)
    rgb = noise(*source)
    assert np.array_equal(route(how, source).pixels(rgb), owned(apply(Image.fromarray(rgb), how)))


@pytest.mark.parametrize("rule", ["adm", "bicubic", "lanczos", "cover"])
@pytest.mark.parametrize("source", [(1280, 720), (1920, 1080), (640, 360), (720, 1280)])
def test_wide_films_are_not_resized_in_full(rule: Rule, source: tuple[int, int]) -> None:
    """What is thrown away of the common sizes is mostly not computed in the first place."""
    assert saved(route(fit(rule, (256, 256), source), source)) > 0.25


def test_a_resize_of_coprime_sizes_is_done_in_full() -> None:
    """Where no whole pixels coincide, nothing can be left out."""
    assert narrowed((40, 300), 640, 341, "bicubic").out == (0, 341)
    assert narrowed((10, 20), 1001, 500, "box").out == (0, 500)
    assert narrowed((10, 20), 1000, 500, "box").taken == (18, 42)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "lanczos"])
def test_weights_in_doubt_are_found(kind: Filter) -> None:
    """A margin of half a unit puts every weight in doubt, the true one hardly any."""
    assert not _in_doubt((91, 364), 640, 455, "bicubic")
    doubtful = sum(_in_doubt((0, w), 3 * w + 1, w, kind) for w in range(50, 150))
    assert doubtful < 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill.views.narrowing._DOUBT", 1.0)
        assert _in_doubt((91, 364), 640, 455, kind)
        assert narrowed((99, 355), 640, 455, kind).out == (0, 455)
