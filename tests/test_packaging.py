import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "schemas/tokenmill_schemas",
    "infra/tokenmill_infra",
    "operators/tokenmill",
    "pipelines/tokenmill_pipelines",
)


def _tracked() -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    there = [line for line in lines.splitlines() if (ROOT / line).exists()]
    return {line.split("/", 1)[1] for line in there}


def test_the_wheel_has_exactly_the_tracked_files(tmp_path: Path) -> None:
    """Built through the sdist, the wheel holds every file of the four packages and no other."""
    build = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run([*build, "-t", "sdist", "-d", str(tmp_path)], cwd=ROOT, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        sdist.extractall(tmp_path, filter="data")
    source = next(p for p in tmp_path.iterdir() if p.is_dir())
    subprocess.run([*build, "-t", "wheel", "-d", str(tmp_path)], cwd=source, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert names == _tracked()


def test_reading_a_store_needs_only_the_base_install() -> None:
    """The feed, the store and the Arrow form import nothing but pyarrow, numpy and fsspec."""
    banned = {"torch", "ray", "prefect", "PIL", "webdataset", "s3fs", "typer", "pandas"}
    code = (
        "import sys, tokenmill.feed, tokenmill.store, tokenmill.shards.arrow\n"
        "import tokenmill_infra.storage, tokenmill_schemas.job\n"
        f"print(sorted({banned!r} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
