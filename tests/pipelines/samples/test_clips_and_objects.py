import itertools
import json
import tomllib
from pathlib import Path

import av
import pytest

from tokenmill_pipelines.samples import make_shapes, make_videos

ROOT = Path(__file__).parents[3] / "pipelines/samples"


def rows(name: str) -> list[dict[str, str]]:
    """The listing of a corpus."""
    return [json.loads(line) for line in (ROOT / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["videos", "shapes"])
def test_the_corpus_is_small_and_listed_whole(name: str) -> None:
    """Every file is listed once, with a caption, a label and a licence."""
    files = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / name).rglob("*.*"))
    assert [row["uri"] for row in rows(name)] == files
    assert all(set(row) == {"uri", "caption", "label", "licence"} for row in rows(name))
    assert all(all(row.values()) for row in rows(name))
    assert sum((ROOT / uri).stat().st_size for uri in files) <= 3 * 2**20
    assert {row["licence"] for row in rows(name)} <= {"CC-BY-4.0", "Zlib", "CC0-1.0"}


def test_the_listings_are_what_the_recipes_say() -> None:
    """Nothing is in a listing that no recipe made."""
    clips = tomllib.loads((ROOT / "videos.toml").read_text())["clip"]
    assert (ROOT / "videos.jsonl").read_text() == make_videos.listing(clips)
    objects = tomllib.loads((ROOT / "shapes.toml").read_text())["object"]
    assert (ROOT / "shapes.jsonl").read_text() == make_shapes.listing(objects)


def test_containers_and_codecs_are_mixed() -> None:
    """What video decoders trip over is all there."""
    found = set()
    for row in rows("videos"):
        if row["label"] != "bad":
            with av.open(ROOT / row["uri"]) as clip:
                stream = clip.streams.video[0]
                found.add((clip.format.name.partition(",")[0], stream.codec_context.codec.name))
    codecs = {codec for _, codec in found}
    assert codecs >= {"h264", "hevc", "vp9", "mpeg4", "mpeg1video", "theora", "mjpeg", "h263"}
    assert {container for container, _ in found} >= {"mov", "matroska", "avi", "mpeg", "ogg"}


def test_a_theora_packet_has_no_bytes() -> None:
    """The clip keeps what trips naive loops."""
    with av.open(ROOT / "videos/made/logo.ogv") as clip:
        empty = [p for p in clip.demux(video=0) if p.size == 0 and p.dts is not None]
    assert len(empty) == 1


def test_uneven_times_are_uneven() -> None:
    """The clip of varying rate has many distances between its frames."""
    times = make_videos.times_ms(9, uneven=True)
    assert len({b - a for a, b in itertools.pairwise(times)}) == 8
    even = make_videos.times_ms(25, uneven=False)
    assert even[0] == 0
    assert even[24] == 1000


def test_objects_of_every_format_are_there() -> None:
    """Meshes, points and a splat, in text and binary forms."""
    endings = {Path(row["uri"]).suffix for row in rows("shapes")}
    assert endings == {".obj", ".stl", ".glb", ".off", ".3mf", ".ply", ".xyz"}
    assert b"element vertex 100000000000\n" in (ROOT / "shapes/bad/claims.ply").read_bytes()
    assert b"property float rot_3\n" in (ROOT / "shapes/forms/mug_splat.ply").read_bytes()
