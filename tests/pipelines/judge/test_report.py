"""The report: strict JSON, a page that is whole and safe, plots in two forms."""

import html.parser
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.pipelines.judge.memory import Means, Memory, operators, picture

from tokenmill.tokenizers import open_tokenizer
from tokenmill_pipelines.judge import Settings, Verdict, judge
from tokenmill_pipelines.judge import tables as made_tables
from tokenmill_pipelines.judge.page import document, page, write_report
from tokenmill_pipelines.report.plots import (
    HEIGHT,
    SCALE,
    WIDTH,
    Plot,
    Series,
    layout,
    png,
)

HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x">'
SETTINGS = Settings(skip=("text", "faces"), rates=(0.0, 0.2), pictures=1)


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    """Of two tokenizers, on pictures with names that others chose."""
    assets: dict[str, Any] = {f"{HOSTILE}{n}.png": picture(n) for n in range(3)}
    assets["bad"] = ValueError(HOSTILE)
    memory = Memory(assets, contents={f"{HOSTILE}0.png": HOSTILE})
    named = {"means": Means(prefix=True), "patches": open_tokenizer("patch_vq")}
    return judge(named, operators(memory, Means()), SETTINGS)


class Reader(html.parser.HTMLParser):
    """Collects tags and their addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_is_whole_and_nothing_of_it_comes_from_elsewhere(verdict: Verdict) -> None:
    """No script, no address but data; what others named is text."""
    reader = Reader()
    reader.feed(page(verdict).decode())
    assert "script" not in reader.tags
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("svg") == 5
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "&lt;script&gt;alert(1)" in page(verdict).decode()


def test_the_page_says_what_wrong_ids_are(verdict: Verdict) -> None:
    """Of whom, where tokenizers differ; and what the distance is on, which is not FID."""
    text = page(verdict).decode()
    assert "(near: one of its 8 nearest codes; random: any other id)" in text
    assert "derivative filters on 64x64 tiles (built in, version 1, not a network)" in text
    assert "Frechet distance (not FID)" in text


def test_files_are_written_beside_each_other(verdict: Verdict, tmp_path: Path) -> None:
    """The page, the document, and each plot twice; a second time over the first."""
    for _ in range(2):
        files = write_report(verdict, tmp_path / "deep" / "er")
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == set(files)
    plots = {name.rpartition(".")[0] for name in files if name.endswith(".svg")}
    assert plots == {
        *("rate_distortion_psnr_db", "rate_distortion_ssim"),
        *("perturbed_psnr_db", "perturbed_ssim", "perturbed_frechet"),
    }
    for name in plots:
        assert ET.parse(files[f"{name}.svg"]).getroot().tag.endswith("svg")
        with Image.open(files[f"{name}.png"]) as image:
            assert image.size == (WIDTH * SCALE, HEIGHT * SCALE)
            assert len(image.getcolors(2**20) or ()) > 5


def test_the_document_is_strict_json_with_every_figure(verdict: Verdict) -> None:
    """What has no finite value is null; every view is listed with its bytes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(document(verdict), parse_constant=refuse)
    assert set(found) == {
        *("format", "version", "data", "kind", "view", "settings", "assets", "tokenizers"),
        *("codecs", "environment"),
    }
    assert set(found["tokenizers"][0]) == {
        *("name", "identity", "views", "failures", "tokens_per_view", "figures", "by_content"),
        *("bits_per_pixel", "streams", "equal_bytes", "prefixes", "perturbed", "text", "faces"),
        *("not_measured", "each", "seconds"),
    }
    assert [len(one["each"]) for one in found["tokenizers"]] == [3, 3]
    assert found["assets"]["without_views"][0]["key"] == "bad"
    codecs = {one["codec"] for one in found["tokenizers"][0]["equal_bytes"]}
    assert codecs == set(found["codecs"]) >= {"jpeg"}


def test_tables_say_what_the_document_says(verdict: Verdict) -> None:
    """Every row has a cell for each head."""
    for make in (
        *(made_tables.overview, made_tables.by_content, made_tables.equal_bytes),
        *(made_tables.prefixes, made_tables.streams),
    ):
        table = make(verdict)
        assert table.rows
        assert all(len(row) == len(table.head) for row in table.rows)
    assert made_tables.overview(verdict).rows[0][:3] == ("means", "3", "48")
    assert ("text", "left out by the settings") in made_tables.not_measured(verdict)
    only = [why for part, why in made_tables.not_measured(verdict) if part == "prefixes"]
    assert only == ["patches: no prefix of the tokens decodes"]


def test_volumes_show_the_cells_that_differ() -> None:
    """Three pictures a view; no plots of rates without codecs."""
    cells = np.zeros((16, 16, 16), bool)
    cells[3:9, 2:12, 5:10] = True
    memory = Memory({"box": cells}, gives="voxels")
    made = judge(open_tokenizer("voxel_vq"), operators(memory, Means()), SETTINGS)
    reader = Reader()
    reader.feed(page(made).decode())
    assert len(reader.addresses) == 3
    assert reader.tags.count("svg") == 1


#: Figures have some digits; ticks of values that differ by less are no numbers to read.
VALUES = st.integers(-(10**6), 10**6).map(lambda value: value / 1000)
POINTS = st.lists(st.tuples(st.floats(0.01, 100), VALUES), min_size=1, max_size=6).map(tuple)


@given(st.lists(POINTS, min_size=1, max_size=3), st.booleans())
def test_everything_drawn_is_on_the_canvas(curves: list[Any], log_x: bool) -> None:
    """Points and ticks lie between the axes' ends, larger values higher up."""
    series = tuple(Series(f"s{n}", points, "#112233") for n, points in enumerate(curves))
    canvas = layout(Plot("p", "t", "x", "y", series, log_x=log_x))
    assert canvas is not None
    for before, drawn in zip(series, canvas.series, strict=True):
        assert all(canvas.left <= x <= canvas.right for x, _ in drawn.points)
        assert all(canvas.top <= y <= canvas.bottom for _, y in drawn.points)
        pairs = sorted(zip(before.points, drawn.points, strict=True), key=lambda p: p[0][1])
        heights = [y for _, (_, y) in pairs]
        assert heights == sorted(heights, reverse=True)
    assert all(canvas.left - 1 <= tick.place <= canvas.right + 1 for tick in canvas.x_ticks)
    assert all(canvas.top - 1 <= tick.place <= canvas.bottom + 1 for tick in canvas.y_ticks)


def test_nothing_finite_is_no_plot() -> None:
    """And what is not finite is left out of one."""
    series = Series("s", ((1.0, float("nan")), (2.0, float("inf"))), "#112233")
    assert layout(Plot("p", "t", "x", "y", (series,))) is None
    kept = layout(Plot("p", "t", "x", "y", (Series("s", ((1.0, 2.0), *series.points), "#123456"),)))
    assert kept is not None
    assert len(kept.series[0].points) == 1


def test_a_dashed_line_is_drawn_in_part() -> None:
    """Less of its colour than a solid one has, and more than none."""

    def ink(line: Any) -> int:
        series = Series("s", ((0.0, 0.0), (1.0, 1.0), (2.0, 0.0)), "#ff0000", line, radius=0.1)
        canvas = layout(Plot("p", "t", "x", "y", (series,)))
        assert canvas is not None
        pixels = np.asarray(Image.open(io.BytesIO(png(canvas))))
        return int(((pixels[..., 0] > 200) & (pixels[..., 1] < 90)).sum())

    solid, dashed, dotted = (ink(line) for line in ("solid", "dashed", "dotted"))
    assert 0 < dotted < dashed < 0.8 * solid
