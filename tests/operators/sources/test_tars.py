import io
import tarfile
from pathlib import Path

import pytest

from tokenmill.sources.tars import TarsSource
from tokenmill.testing.sources import check_source
from tokenmill_schemas.errors import AssetError, JobError, Reason


def _tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def _members(count: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for i in range(count):
        found[f"d/{i:03d}.seg.jpg"] = b"i" * (700 + i)
        found[f"d/{i:03d}.txt"] = f"caption {i}".encode()
        found[f"d/{i:03d}.cls"] = str(i).encode()
        found[f"d/{i:03d}.json"] = b'{"score": 0.5, "licence": "CC0"}'
    found["d/999.txt"] = b"no image"
    return found


def test_members_group_by_key_and_open_by_range(tmp_path: Path) -> None:
    """Two archives by braces; captions, labels and JSON fields in their types."""
    for i in range(2):
        _tar(tmp_path / f"s-{i:02d}.tar", _members(3))
    columns = ("caption", "label", "score", "licence")
    source = TarsSource(
        (f"{tmp_path}/s-{{00..01}}.tar",), columns=columns, types={"score": "float"}
    )
    refs = check_source(source)
    assert [r.key for r in refs] == [f"s-{i:02d}/d/{j:03d}" for i in range(2) for j in range(3)]
    assert refs[2].columns == {"caption": "caption 2", "label": 2, "score": 0.5, "licence": "CC0"}
    assert source.open(refs[2]).read() == b"i" * 702


@pytest.mark.parametrize("how", ["cut data", "cut header", "garbage"])
def test_a_broken_tail_is_one_truncated_asset(tmp_path: Path, how: str) -> None:
    """What comes before it is listed and opens; ``strict`` makes it the job's fault."""
    path = Path(_tar(tmp_path / "s.tar", {f"{i}.jpg": b"i" * 600 for i in range(4)}))
    data = path.read_bytes()
    at = 3 * (512 + 1024)
    tails = {
        "cut data": data[: at + 512 + 100],
        "cut header": data[: at + 100],
        "garbage": data[:at] + b"\xee" * 4096,
    }
    path.write_bytes(tails[how])
    source = TarsSource((str(path),))
    refs = check_source(source, bad=frozenset({"s/#tail"}))
    assert [r.key for r in refs] == ["s/0", "s/1", "s/2", "s/#tail"]
    with pytest.raises(AssetError, match=f"byte {at} ") as caught:
        source.open(refs[-1])
    assert caught.value.reason == Reason.TRUNCATED
    with pytest.raises(JobError, match=f"s.tar is broken from byte {at} "):
        list(TarsSource((str(path),), strict=True).list())


def test_what_is_no_tar_is_the_jobs_fault(tmp_path: Path) -> None:
    """A compressed archive has no ranges to read."""
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(JobError, match="not an uncompressed tar"):
        list(TarsSource((str(tmp_path / "s.tar"),)).list())
    with pytest.raises(JobError, match=r"source\.urls"):
        list(TarsSource((str(tmp_path / "none.tar"),)).list())
