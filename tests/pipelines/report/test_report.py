"""The report of a run: whole, self-contained, and safe with names that others chose."""

import base64
import datetime as dt
import html.parser
import io
import json
import math
import re
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokenmill.worker.statistics import TokenStatistics
from tokenmill_pipelines.report import (
    Quarantined,
    Reconstruction,
    RunRecord,
    charts,
    images,
    markdown_summary,
    text,
    write_report,
)
from tokenmill_pipelines.report.environment import environment
from tokenmill_pipelines.report.markdown import escape
from tokenmill_pipelines.report.redact import HIDDEN, redact
from tokenmill_schemas.arrow import stored_bits
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

START = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x">|`*'
SPEC = TokenSpec(
    (
        Stream("image", "index", (Axis("h", 2), Axis("w", 2)), vocab_sizes=(1000,)),
        Stream("code", "bits", (Axis("n", 3),), width_bits=18),
        Stream("latent", "float", (Axis("t"), Axis("h", 2)), channels=4, dtype="float16"),
    )
)


def jpeg(size: int = 64) -> bytes:
    """Return a small noisy JPEG."""
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def record(**changes: Any) -> RunRecord:
    """Return a run with something of everything."""
    rng = np.random.default_rng(0)
    found = TokenStatistics.of(SPEC)
    found.add(
        {
            "image": rng.integers(0, 250, (50, 2, 2)).astype(np.uint16),
            "code": rng.integers(0, 2, (50, 3, 18)).astype(np.uint8),
            "latent": rng.normal(size=(50, 1, 2, 4)).astype(np.float16),
        }
    )
    picture = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    whole = RunRecord(
        job_name="demo",
        store_uri="file:///stores/demo",
        started_at=START,
        ended_at=START + dt.timedelta(seconds=50),
        snapshot_number=3,
        committed=True,
        totals={
            "assets": 60,
            "samples": 50,
            "tokens": 200,
            "bytes": 400,
            "rejected": 3,
            "shards": 4,
        },
        done={"samples": 40, "tokens": 160, "assets": 45, "reused_units": 2},
        hop_seconds={"decode": 30.0, "encode": 25.0, "write": 0.5},
        threads={"decode": 4},
        wall_s={"list": 1.0, "encode": 20.0},
        actors=2,
        spec=SPEC,
        statistics=json.loads(json.dumps(found.to_json())),
        reconstructions=(Reconstruction("a.png", picture, picture // 2, view="1.1/tl"),),
        quarantine=(
            Quarantined("bad.jpg", "bad.jpg", "truncated", "decode", "short", jpeg()[:900]),
        ),
        reasons={"truncated": 3},
        job={"name": "demo", "store": {"options": {"secret": "hunter2"}}},
        environment={"python": "3.11"},
        facts={"dead_actors": 1},
    )
    return replace(whole, **changes)


class Page(html.parser.HTMLParser):
    """The tags of a page, checked to nest."""

    VOID = frozenset({"meta", "img", "line"})

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and what it points to."""
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "data"}]

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which must be this one."""
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that closes itself."""
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        """Gather the text."""
        self.text += data + " "


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    """Tags nest; no script; every picture is inside the page; nothing is fetched."""
    raw = write_report(record())
    page = Page(raw)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(rb"url\(|@import|https?://", raw)


def test_a_page_says_what_was_done() -> None:
    """Totals, rates of this run's own work, the bottleneck per thread, streams, reasons."""
    shown = " ".join(Page(write_report(record())).text.split())
    for phrase in (
        "snapshot 3",
        "40 new",
        "16 bits a token",
        "encode limits",
        "2 units reused",
        "without samples 3 5.0 % of assets",
        "of 1,000 (",
        "of 18 stored",
        "h 2 x w 2",
        "t varies x h 2 x 4 channels",
        "a.png (1.1/tl)",
        "mean PSNR",
        "truncated",
        "The first 1 of 3",
        "dead actors",
    ):
        assert phrase in shown
    assert "samples/s 2 " in shown


def test_equal_records_give_equal_pages() -> None:
    """A report is a function of its record."""
    assert write_report(record()) == write_report(record())


def test_an_empty_run_has_a_report_too() -> None:
    """A run that found nothing to do, or failed before its first unit, is reported."""
    empty = RunRecord("none", "file:///x", START, START)
    page = Page(write_report(empty))
    assert page.open == []
    assert "no snapshot" in page.text
    assert "nothing limits" in page.text
    assert "no snapshot" in markdown_summary(empty)


def test_a_run_without_news_says_so() -> None:
    """An unchanged source commits nothing, and the page names the version that holds."""
    assert "snapshot 3, nothing new" in Page(write_report(record(committed=False))).text


def test_names_from_outside_cannot_become_markup() -> None:
    """Keys, errors, jobs, streams, labels: whatever a listing held is shown as text."""
    picture = np.zeros((4, 4, 3), np.uint8)
    hostile = record(
        job_name=HOSTILE,
        store_uri=f"file:///{HOSTILE}",
        content_id=HOSTILE,
        fingerprint=HOSTILE,
        job={HOSTILE: HOSTILE},
        statistics={HOSTILE: record().statistics["image"]},
        reconstructions=(Reconstruction(HOSTILE, picture, picture),),
        quarantine=(Quarantined(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        reasons={HOSTILE: 1},
        hop_seconds={HOSTILE: 1.0},
        wall_s={HOSTILE: 1.0},
        environment={HOSTILE: HOSTILE},
        facts={HOSTILE: 1},
    )
    page = Page(write_report(hostile))
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith("data:") for link in page.links)
    assert page.text.count("<script>") >= 15
    assert "<script>" not in markdown_summary(hostile)


def test_secrets_are_not_written() -> None:
    """A password that stands in a job or a URL does not reach the page or the summary."""
    leaky = record(store_uri="s3://me:hunter2@bucket/store", job={"uri": "https://x:hunter2@y/z"})
    assert b"hunter2" not in write_report(record())
    assert b"hunter2" not in write_report(leaky)
    assert "hunter2" not in markdown_summary(leaky)


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "password",
        "token",
        "hub_token",
        "aws_secret_access_key",
        "api-key",
        "client.secret",
    ],
)
def test_values_of_secret_names_are_hidden(name: str) -> None:
    """At any depth, also inside lists."""
    assert redact({"a": [{name: {"x": 1}}]}) == {"a": [{name: HIDDEN}]}


def test_what_only_looks_like_a_secret_stays() -> None:
    """A report without its tokenizer or its key column would be of no use."""
    job = {"tokenizer": {"kind": "llamagen", "tokens": 256}, "key": "name", "key_column": "id"}
    assert redact(job) == job


def test_signed_urls_lose_their_signature() -> None:
    """What follows a signature's name in a query is hidden, the rest stays."""
    url = "https://h/o?X-Amz-Signature=abc&part=2&token=xyz"
    assert redact([url]) == [f"https://h/o?X-Amz-Signature={HIDDEN}&part=2&token={HIDDEN}"]


def test_psnr_is_the_textbooks() -> None:
    """Off by one everywhere is 48.13 dB; equal pictures are infinitely good."""
    one = np.full((4, 4, 3), 100, np.uint8)
    assert Reconstruction("a", one, one + 1).psnr_db == pytest.approx(20 * math.log10(255))
    assert Reconstruction("a", one, one).psnr_db == math.inf
    assert Reconstruction("a", np.zeros_like(one), np.full_like(one, 255)).psnr_db == 0.0


def test_exact_reconstructions_do_not_spoil_the_mean() -> None:
    """An infinite PSNR is told apart from the mean of the others."""
    one = np.full((4, 4, 3), 100, np.uint8)
    both = (Reconstruction("a", one, one + 1), Reconstruction("b", one, one))
    shown = markdown_summary(record(reconstructions=both))
    assert "mean PSNR 48.1 dB over 1 views, 1 given back exactly" in shown


def test_originals_are_shown_to_the_bit() -> None:
    """A picture of the page decodes to the very pixels, unless it is larger than the page."""
    pixels = np.random.default_rng(3).integers(0, 255, (30, 20, 3)).astype(np.uint8)
    assert np.array_equal(decoded(images.data_uri(pixels)), pixels)
    wide = np.zeros((10, 2000, 3), np.uint8)
    assert decoded(images.data_uri(wide, longest=100)).shape[1] == 100


def decoded(uri: str) -> np.ndarray:
    """Return the pixels of a PNG data URI."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_truncated_picture_shows_what_came() -> None:
    """The upper rows of a cut JPEG are decoded and the lower ones are black."""
    whole = jpeg(256)
    shown = decoded(images.thumbnail_uri(whole[: len(whole) // 2]))
    assert shown.shape == (96, 96, 3)
    assert shown[:20].mean() > 60
    assert shown[-10:].max() == 0


@pytest.mark.parametrize(
    "data", [b"", b"no picture", jpeg()[:30], b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_what_is_no_picture_has_no_thumbnail(data: bytes) -> None:
    """Broken bytes never break the report."""
    assert images.thumbnail_uri(data) == ""


def test_a_decompression_bomb_is_not_decoded_for_its_thumbnail() -> None:
    """A header that claims 400 million pixels allocates nothing."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    header = bytearray(buffer.getvalue())
    header[16:24] = (20_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    assert images.thumbnail_uri(bytes(header)) == ""


def test_the_rank_chart_compares_with_even_use() -> None:
    """Even use touches the line everywhere; unused ids leave a gap at the right."""
    even = charts.rank_frequency(np.full(64, 10))
    assert len(even.rects) == 64
    assert all(rect.y == pytest.approx(even.line_y, abs=0.01) for rect in even.rects)
    half = charts.rank_frequency(np.r_[np.full(50, 4), np.zeros(50)].astype(np.int64))
    assert max(rect.x + rect.width for rect in half.rects) <= charts.WIDTH / 2
    assert all(rect.y < half.line_y for rect in half.rects)


def test_few_ids_of_a_large_vocabulary_fill_half_of_the_rank_chart() -> None:
    """Ranks are on a log scale where ids do not have a bar each."""
    counts = np.zeros(65536, np.int64)
    counts[:256] = 7
    chart = charts.rank_frequency(counts)
    right = max(rect.x + rect.width for rect in chart.rects)
    assert 0.4 * charts.WIDTH < right < 0.6 * charts.WIDTH
    assert chart.x_label.endswith("log scale")


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=400).filter(any))
def test_charts_stay_in_their_frame(counts: list[int]) -> None:
    """However skewed the use, every bar lies inside the chart and has a height."""
    chart = charts.rank_frequency(np.array(counts))
    assert 0 <= chart.line_y <= charts.HEIGHT
    for rect in chart.rects:
        assert rect.height > 0
        assert rect.y >= 0
        assert rect.y + rect.height <= charts.HEIGHT + 0.02
        assert rect.x + rect.width <= charts.WIDTH + 0.02


def test_bars_keep_the_order_of_the_hops_and_their_shares() -> None:
    """Hops in the order of the data's way; idle ones are left out; shares add up to one."""
    found = charts.bars({"write": 1.0, "other": 1.0, "decode": 2.0, "commit": 0.0})
    assert [bar.label for bar in found] == ["decode", "write", "other"]
    assert [bar.share for bar in found] == [0.5, 0.25, 0.25]


def test_stored_bits_follow_the_packing() -> None:
    """What a page calls stored is what a shard takes."""
    image, code, latent = SPEC.streams
    assert stored_bits(image, "raw") == 16
    assert stored_bits(image, "bits") == 10
    assert stored_bits(code, "raw") == 18
    assert stored_bits(latent, "raw") == 64


def test_the_summary_is_markdown_with_whole_tables() -> None:
    """Every row of a table has its head's number of cells."""
    lines = markdown_summary(record()).splitlines()
    rows = [row for row in lines if row.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}
    assert lines[0] == "# demo: snapshot 3"


def test_markdown_escapes_what_would_be_format() -> None:
    """Newlines, cell borders and emphasis are only characters."""
    assert escape("a|b\n*c* <b>") == r"a\|b \*c\* &lt;b&gt;"


def test_numbers_read_well() -> None:
    """Counts, sizes, rates, durations and shares at their turning points."""
    assert [text.count(n) for n in (0, 999, 12_345, 1_234_567, 2.5e12)] == [
        "0",
        "999",
        "12,345",
        "1.23 M",
        "2.5 T",
    ]
    assert [text.size(n) for n in (999, 1_000, 1.5e6, 2e12)] == ["999 B", "1 kB", "1.5 MB", "2 TB"]
    assert [text.rate(n) for n in (0, 0.0123, 45.678, 1234)] == ["0", "0.0123", "45.7", "1,234"]
    assert [text.duration(s) for s in (0.0042, 1.5, 59.96, 3725)] == [
        "4.2 ms",
        "1.50 s",
        "1 min 0 s",
        "1 h 2 min",
    ]
    assert [text.percent(p) for p in (0, 0.0004, 0.032, 0.5, 0.995, 1)] == [
        "0 %",
        "< 0.1 %",
        "3.2 %",
        "50 %",
        "99.5 %",
        "100 %",
    ]


def test_the_environment_names_versions_and_machine() -> None:
    """Without importing what it names."""
    found = environment()
    assert found["pyarrow"].split(".")[0].isdigit()
    assert {"python", "system", "processor"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
