import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenmill_pipelines.cli.catalogues import list_samples
from tokenmill_pipelines.samples import fashion_mnist, fetch, openclipart, packages
from tokenmill_pipelines.samples.catalogue import Package, catalogue, find_sample
from tokenmill_schemas.errors import JobError, TransientError

SVG = """<?xml version="1.0"?>
<!DOCTYPE svg [<!ENTITY name "Cat"><!ENTITY file SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><metadata><r:RDF
 xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cc="http://web.resource.org/cc/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><cc:Work r:about="">
 <dc:title>Sleeping
   &name;&file;</dc:title><dc:description>a &lt;line&gt; drawing</dc:description>
 <dc:subject><r:Bag><r:li>mammal</r:li><r:li></r:li><r:li>cat</r:li></r:Bag></dc:subject>
 <dc:publisher><cc:Agent><dc:title>Library</dc:title></cc:Agent></dc:publisher>
 <dc:creator><cc:Agent><dc:title>Ron</dc:title></cc:Agent></dc:creator>
 <cc:license r:resource="LICENCE"/></cc:Work></r:RDF></metadata>
"""
CONTENTS = {"photo", "cutout", "drawing", "text", "screenshot", "pattern", "object", "scan"}
PUBLIC = "http://web.resource.org/cc/PublicDomain"
GPL = "http://creativecommons.org/licenses/GPL/2.0/"


def _script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian of three scripts whose one package holds two photographs."""
    tree = tmp_path / "tree/usr/share"
    (tree / "backgrounds").mkdir(parents=True)
    for name in ("Bridge_by_Ann.jpg", "Sea_by_Bo.jpg"):
        Image.new("RGB", (8, 8)).save(tree / "backgrounds" / name)
    (tree / "doc/lomiri-wallpapers-16.04").mkdir(parents=True)
    (tree / "doc/lomiri-wallpapers-16.04/copyright").write_text(
        "Format: x\n\nFiles: 16.04/*\nCopyright: 2018, Ann\nLicense: CC-BY-4.0\n\n"
        "Files: 16.04/Sea_by_Bo.jpg\nCopyright: 2018, Bo\nLicense: CC0-1.0\n\n"
    )
    deb = tmp_path / "package.deb"
    with tarfile.open(deb, "w") as tar:
        tar.add(tmp_path / "tree", ".")
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    tools = tmp_path / "tools"
    tools.mkdir()
    _script(tools, "apt-get", f'echo x >> {tmp_path}/calls; cp {deb} "$2_9_all.deb"')
    stanza = f"Package: $2\\nVersion: 9\\nDescription: a: b\\n more: text\\nSHA256: {digest}\\n"
    _script(tools, "apt-cache", f'printf "{stanza}\\n"')
    _script(tools, "dpkg-deb", 'if [ "$1" = -f ]; then echo 9; else tar -xf "$2" -C "$3"; fi')
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_fetching_is_whole_and_done_once(debian: Path) -> None:
    """The folder has the files, the listing and a receipt; a second call downloads nothing."""
    made = fetch.fetch("lomiri-wallpapers", debian / "corpora")
    assert made == debian / "corpora/lomiri-wallpapers"
    rows = [json.loads(line) for line in (made / "listing.jsonl").read_text().splitlines()]
    assert [row["uri"] for row in rows] == ["photos/Bridge_by_Ann.jpg", "photos/Sea_by_Bo.jpg"]
    assert [row["licence"] for row in rows] == ["CC-BY-4.0", "CC0-1.0"]
    assert {row["content"] for row in rows} == {"photo"}
    assert all((made / row["uri"]).is_file() for row in rows)
    receipt = json.loads((made / fetch.RECEIPT).read_text())
    assert receipt["assets"] == 2
    assert receipt["packages"]["lomiri-wallpapers-16.04"]["version"] == "9"
    assert fetch.fetch("lomiri-wallpapers", debian / "corpora") == made
    assert (debian / "calls").read_text() == "x\n"
    assert [p.name for p in (debian / "corpora").iterdir()] == ["lomiri-wallpapers"]


def test_a_wrong_checksum_leaves_nothing(debian: Path) -> None:
    """A file that is not the stated one is refused, and no folder is left."""
    _script(debian / "tools", "apt-cache", 'printf "Version: 9\\nSHA256: 00ff\\n"')
    with pytest.raises(JobError, match="00ff was promised"):
        fetch.fetch("lomiri-wallpapers", debian / "corpora")
    assert list((debian / "corpora").iterdir()) == []


def test_the_catalogues_own_checksum_holds_too(debian: Path) -> None:
    """Of the pinned version, the pinned sha256 is wanted whatever the index states."""
    pinned = find_sample("lomiri-wallpapers").packages[0]
    _script(debian / "tools", "dpkg-deb", f"echo {pinned.version}")
    with pytest.raises(JobError, match=pinned.sha256):
        fetch.fetch("lomiri-wallpapers", debian / "corpora")


def test_a_missing_client_and_a_missing_network_are_told_apart(
    debian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is mended on this machine, the other by trying again; an unknown package by neither."""
    _script(debian / "tools", "apt-get", 'echo "Err: Temporary failure resolving" >&2; exit 100')
    with pytest.raises(TransientError, match="could not reach its registry"):
        fetch.fetch("lomiri-wallpapers", debian / "corpora")
    _script(debian / "tools", "apt-get", 'echo "E: Unable to locate package x" >&2; exit 100')
    with pytest.raises(JobError, match="run apt-get update first"):
        fetch.fetch("lomiri-wallpapers", debian / "corpora")
    monkeypatch.setenv("PATH", str(debian / "nothing"))
    with pytest.raises(JobError, match="apt-get is not installed"):
        fetch.fetch("lomiri-wallpapers", debian / "corpora")
    assert list((debian / "corpora").iterdir()) == []


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    """A folder without a receipt is neither used nor overwritten."""
    (tmp_path / "openclipart").mkdir()
    with pytest.raises(JobError, match="is there but was not fetched"):
        fetch.fetch("openclipart", tmp_path)


def test_the_quicker_of_two_wins(tmp_path: Path) -> None:
    """When another process has published meanwhile, its folder is taken."""
    made, target = tmp_path / "made", tmp_path / "target"
    for folder in (made, target):
        folder.mkdir()
        (folder / fetch.RECEIPT).write_text(folder.name)
    assert fetch._publish(made, target) == target
    assert (target / fetch.RECEIPT).read_text() == "target"


def test_pypi_files_are_hash_checked_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pip is asked for one file by hash, and what it brings is checked again."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("corpus-1/picture.png"))
    data = archive.getvalue()
    asked: list[str] = []

    def run(command: list[str], folder: Path) -> str:
        asked.append(Path(command[command.index("-r") + 1]).read_text())
        (folder / "corpus-1.tar.gz").write_bytes(data)
        return ""

    monkeypatch.setattr(packages, "run", run)
    digest = hashlib.sha256(data).hexdigest()
    package = Package("pypi", "corpus", "1", digest, len(data))
    (tmp_path / "good").mkdir()
    assert packages.fetch_package(package, tmp_path / "good") == ("1", digest)
    assert asked == [f"corpus==1 --hash=sha256:{digest}\n"]
    assert (tmp_path / "good/unpacked/corpus-1/picture.png").is_file()
    wrong = Package("pypi", "corpus", "1", "0" * 64, len(data))
    with pytest.raises(JobError, match="was promised"):
        packages.fetch_package(wrong, tmp_path / "bad")


def test_digests_are_read_by_version() -> None:
    """Several versions in apt's answer are kept apart; continuation lines are no fields."""
    text = "Package: a\nVersion: 1:2-3\n SHA256: no\nSHA256: aa\n\nVersion: 4\nSHA256: bb\n"
    assert packages.stated_digests(text) == {"1:2-3": "aa", "4": "bb"}


def test_the_catalogue_is_well_formed() -> None:
    """Names are distinct, arranged, and pinned by full hashes; a slip gets the nearest name."""
    names = [sample.name for sample in catalogue()]
    assert {sample.name for sample in catalogue() if not sample.files} == set(fetch._ARRANGE)
    assert len(set(names)) == len(names)
    assert all(len(p.sha256) == 64 for s in catalogue() for p in s.packages)
    with pytest.raises(JobError, match="did you mean 'openclipart'"):
        find_sample("open-clipart")


def test_what_is_for_judging_is_said() -> None:
    """The corpora kept for judging are known, in the catalogue and in what ``list`` shows."""
    kept = {sample.name for sample in catalogue() if sample.use == "judging"}
    assert kept >= {"gnome-backgrounds", "opencv-doc", "moviepy", "sweethome3d-furniture"}
    assert kept >= {"tuxpaint-stamps", "forensics-samples", "games-thumbnails"}
    assert kept == {entry["name"] for entry in list_samples() if entry["use"] == "judging"}
    pinned = [{p.name for p in sample.packages} for sample in catalogue() if sample.name in kept]
    trained = {p.name for s in catalogue() if s.name not in kept for p in s.packages}
    assert not set().union(*pinned) & trained


def test_what_files_show_has_few_names() -> None:
    """A report by content has rows that a reader knows; a slip in the catalogue makes none."""
    shown = {rule.value for s in catalogue() for part in s.files for rule in part.content}
    assert shown <= CONTENTS
    assert all(part.content for s in catalogue() for part in s.files)


def test_svg_metadata_is_read_safely() -> None:
    """Title, description, keywords and licence are found; an external entity stays unread."""
    found = openclipart.read_metadata(io.BytesIO(SVG.replace("LICENCE", PUBLIC).encode()))
    assert found == openclipart.Metadata(
        "Sleeping Cat", "a <line> drawing", "Ron", PUBLIC, ["mammal", "cat"]
    )


def test_broken_svg_gives_what_stood_before_the_fault() -> None:
    """A file that is not well-formed is no reason to lose the picture."""
    broken = SVG[: SVG.index("<dc:subject>")] + "<oops></dc:title>"
    assert openclipart.read_metadata(io.BytesIO(broken.encode())).title == "Sleeping Cat"
    assert openclipart.read_metadata(io.BytesIO(b"no xml")) == openclipart.Metadata()


def test_entities_that_explode_are_stopped() -> None:
    """A billion laughs neither fills the memory nor raises."""
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = (
        f'<!DOCTYPE svg [<!ENTITY a0 "ha">{entities}]><svg><Work><title>&a9;</title></Work></svg>'
    )
    assert openclipart.read_metadata(io.BytesIO(bomb.encode())).title == ""


@pytest.mark.parametrize(
    ("said", "name"), [(PUBLIC, "public domain"), ("", "public domain"), (GPL, "GPL-2.0")]
)
def test_licences_get_short_names(said: str, name: str) -> None:
    """Silence means the package's own licence; another one is kept."""
    assert openclipart.licence_name(said) == name


def test_openclipart_keeps_links_and_lists_every_name(tmp_path: Path) -> None:
    """A link stays a link, has a row of its own, and says which file it is the same as."""
    root = tmp_path / "unpacked/usr/share/openclipart"
    for name in ("animals/cat", "food/pie"):
        for kind in ("png", "svg"):
            (root / kind / name).parent.mkdir(parents=True)
        Image.new("RGBA", (4, 4)).save(root / f"png/{name}.png")
        (root / f"svg/{name}.svg").write_text(SVG.replace("LICENCE", PUBLIC))
    (root / "png/food/cat.png").symlink_to("../animals/cat.png")
    (root / "svg/food/cat.svg").write_text(SVG.replace("LICENCE", GPL))
    doc = tmp_path / "unpacked/usr/share/doc/openclipart-png"
    doc.mkdir(parents=True)
    (doc / "copyright").write_text("public domain")
    (out := tmp_path / "out").mkdir()
    assert openclipart.arrange(tmp_path / "unpacked", out) == 3
    rows = [json.loads(line) for line in (out / "listing.jsonl").read_text().splitlines()]
    assert [r["uri"] for r in rows] == [
        "png/animals/cat.png", "png/food/cat.png", "png/food/pie.png"
    ]  # fmt: skip
    assert [r["same_as"] for r in rows] == ["", "png/animals/cat.png", ""]
    assert [r["licence"] for r in rows] == ["public domain", "GPL-2.0", "public domain"]
    assert rows[0]["keywords"] == "mammal, cat"
    assert (out / "png/food/cat.png").is_symlink()


def _idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_becomes_a_listing_of_png_bytes(tmp_path: Path) -> None:
    """Pixels, labels and class names of both splits are in the Parquet file."""
    folder = tmp_path / "unpacked/usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
    for prefix in ("train", "t10k"):
        _idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.array([9, 0, 5], np.uint8))
    doc = tmp_path / "unpacked/usr/share/doc/dataset-fashion-mnist"
    doc.mkdir(parents=True)
    (doc / "copyright").write_text("MIT")
    assert fashion_mnist.arrange(tmp_path / "unpacked", tmp_path) == 6
    rows = pq.read_table(tmp_path / "listing.parquet").to_pylist()
    assert [r["key"] for r in rows[2:4]] == ["train/00002", "test/00000"]
    assert rows[3]["caption"] == "ankle boot"
    assert rows[3]["label"] == 9
    with Image.open(io.BytesIO(rows[4]["image"])) as image:
        np.testing.assert_array_equal(np.asarray(image), images[1])
    (folder / "bad.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"))
    with pytest.raises(JobError, match="not an IDX file"):
        fashion_mnist.read_idx(folder / "bad.gz")
