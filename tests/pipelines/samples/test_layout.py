import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_pipelines.samples.catalogue import Files, Rule, Sample
from tokenmill_pipelines.samples.layout import Stated, arrange, first, matches, read_copyright
from tokenmill_pipelines.samples.packages import unpack
from tokenmill_schemas.errors import JobError

RIGHTS = (Rule("CC0-1.0"),)
COPYRIGHT = """Format: x

Files: *
Copyright: 2001, Ann
License: GPL-2+

Files:
 images/land/*
 images/a?b.jpg
Copyright: Bo
           2003 Cy
License: public-domain
 Given away.

License: GPL-2+
 This program is free.
"""


def laid_out(tmp_path: Path, *files: Files, archives: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The listing of a corpus of these files, from ``tmp_path/unpacked`` to ``tmp_path/out``."""
    (tmp_path / "out").mkdir()
    sample = Sample("corpus", "", "", 0, (), archives=archives, files=files)
    rows = arrange(sample, tmp_path / "unpacked", tmp_path / "out")
    listing = [json.loads(text) for text in (tmp_path / "out/listing.jsonl").open()]
    assert len(listing) == rows
    return listing


def put(tmp_path: Path, *names: str) -> Path:
    """A package with files of these names, each of which holds its name."""
    for name in names:
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "unpacked"


def test_files_are_copied_with_their_folders_and_listed(tmp_path: Path) -> None:
    """By patterns that span folders; links are not followed, terms lie beside unlisted."""
    root = put(tmp_path, "share/a/Big_bay-2.jpg", "share/a/LICENSE", "share/b.jpg", "share/c.png")
    (root / "share/link.jpg").symlink_to("b.jpg")
    part = Files("share", ("*.jpg",), "photos", beside=("*/LICENSE",), licences=RIGHTS)
    rows = laid_out(tmp_path, part)
    assert [row["uri"] for row in rows] == ["photos/a/Big_bay-2.jpg", "photos/b.jpg"]
    assert [row["label"] for row in rows] == ["a", "photos"]
    assert rows[0]["caption"] == "Big bay 2"
    assert (tmp_path / "out/photos/a/Big_bay-2.jpg").read_text() == "share/a/Big_bay-2.jpg"
    assert (tmp_path / "out/photos/a/LICENSE").is_file()
    assert not (tmp_path / "out/photos/link.jpg").exists()


def test_the_first_rule_that_matches_holds(tmp_path: Path) -> None:
    """For what a file shows and for its licence; what is left out is left out."""
    put(tmp_path, "share/menu.png", "share/old/cat.png", "share/cat.png")
    content = (Rule("photo", ("old/*", "dog*")), Rule("drawing"))
    licences = (Rule("MIT", ("cat*",)), Rule("CC0-1.0"))
    part = Files("sh*re", ("*.png",), "", ("menu*",), content=content, licences=licences)
    rows = laid_out(tmp_path, part)
    assert [row["uri"] for row in rows] == ["cat.png", "old/cat.png"]
    assert [row["content"] for row in rows] == ["drawing", "photo"]
    assert [row["licence"] for row in rows] == ["MIT", "CC0-1.0"]


def test_what_files_may_be_used_for_is_in_every_row(tmp_path: Path) -> None:
    """A part of a corpus can be for judging alone."""
    put(tmp_path, "share/a.mp4", "share/b.mp4")
    judged = Files("share", ("a*",), "videos", licences=RIGHTS, use="judging")
    rows = laid_out(tmp_path, judged, Files("share", ("b*",), "videos", licences=RIGHTS))
    assert [row["use"] for row in rows] == ["judging", "training"]


def test_rights_come_from_the_copyright_file(tmp_path: Path) -> None:
    """The last stanza that matches holds, under the path that the file has in the source."""
    root = put(tmp_path, "share/land/x.jpg", "share/sea.jpg")
    (root / "doc").mkdir()
    (root / "doc/copyright").write_text(COPYRIGHT)
    part = Files("share", ("*",), copyright="doc/copyright", stated_below="images")
    rows = laid_out(tmp_path, part)
    assert [row["licence"] for row in rows] == ["public-domain", "GPL-2+"]
    assert rows[0]["copyright"] == "Bo; 2003 Cy"
    assert (tmp_path / "out/copyright").read_text() == COPYRIGHT


def test_a_file_without_a_licence_is_refused(tmp_path: Path) -> None:
    """Nothing enters a corpus of which nobody can say what is allowed."""
    put(tmp_path, "share/a.jpg")
    with pytest.raises(JobError, match=r"no licence is stated for a\.jpg"):
        laid_out(tmp_path, Files("share", ("*",)))


def test_a_package_that_changed_is_told(tmp_path: Path) -> None:
    """A folder or an archive that is not there any more is an error and no empty corpus."""
    put(tmp_path, "share/a.jpg")
    sample = Sample("corpus", "", "", 0, (), files=(Files("gone", ("*",), licences=RIGHTS),))
    with pytest.raises(JobError, match="have no gone"):
        arrange(sample, tmp_path / "unpacked", tmp_path)
    sample = Sample("corpus", "", "", 0, (), archives=("*.zip",))
    with pytest.raises(JobError, match=r"have no \*\.zip"):
        arrange(sample, tmp_path / "unpacked", tmp_path)


def test_archives_inside_packages_are_opened(tmp_path: Path) -> None:
    """Zip and tar, told by their bytes; each gets a folder of its name."""
    root = put(tmp_path, "chair.obj", "mug.obj")
    with zipfile.ZipFile(root / "One.sh3f", "w") as file:
        file.write(root / "chair.obj", "chair/chair.obj")
    with tarfile.open(root / "data.tar.gz", "w:gz") as tar:
        tar.add(root / "mug.obj", "mug.obj")
    part = Files("archives", ("*.obj",), "objects", licences=RIGHTS)
    rows = laid_out(tmp_path, part, archives=("*.sh3f", "*.tar.gz"))
    assert [row["uri"] for row in rows] == ["objects/One/chair/chair.obj", "objects/data/mug.obj"]
    with pytest.raises(JobError, match=r"chair\.obj is no archive"):
        unpack(root / "chair.obj", tmp_path / "folder")


def test_copyright_files_are_read_by_stanza() -> None:
    """Patterns stand on one line or several, and a licence's text is not its name."""
    assert read_copyright(COPYRIGHT) == [
        Stated(("*",), "2001, Ann", "GPL-2+"),
        Stated(("images/land/*", "images/a?b.jpg"), "Bo; 2003 Cy", "public-domain"),
    ]
    assert read_copyright("This package was made by Ann.\n\nLicense:\n\n GPL\n") == []


def test_wild_cards_span_folders() -> None:
    """As in Debian's copyright files; brackets are nothing special."""
    assert matches(("images/*",), "images/a/b.png")
    assert matches(("a?c",), "a/c")
    assert not matches(("images",), "images/a")
    assert matches(("[a].png",), "[a].png")
    assert not matches(("[a].png",), "a.png")


@given(st.text())
def test_every_path_matches_itself_and_the_star(path: str) -> None:
    """A path without wild cards is a pattern for itself, and no rule at all says nothing."""
    plain = path.replace("*", "").replace("?", "")
    assert matches((plain,), plain)
    assert first((Rule("any"),), path) == "any"
    assert first((), path) == ""
