"""Real corpora that can be fetched by name: which packages they lie in, and what they hold.

The facts stand in ``corpora/*.toml``: pictures, clips and objects, and those that are for judging.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import build, nearest

#: What a corpus may be used for: nothing is ever trained or tuned on one that is for judging.
Use = Literal["training", "judging"]


@dataclass(frozen=True, slots=True)
class Package:
    """A file of a package registry; ``sha256`` is that of ``version``."""

    registry: Literal["debian", "pypi", "npm"]
    name: str
    version: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A value for the files whose path below `Files.root` matches one of ``paths``.

    In a pattern ``*`` and ``?`` match "/" too, as they do in Debian's copyright files.
    """

    value: str
    paths: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Files:
    """Which files of the unpacked packages make up a corpus, and what is known of them.

    Attributes:
        root: A folder of the unpacked packages; its parts may be patterns.
        take: Patterns of `Rule`, of which a file's path below ``root`` matches one.
        leave: The same, of files that are not taken.
        into: The folder of the corpus that they are copied to, with the folders below ``root``.
        beside: Patterns of files that are copied too and not listed: terms, materials.
        content: What a file shows; the first rule that matches. Of pictures and clips: photo (what
            a camera took), cutout (a photographed thing without its surroundings), drawing (and
            renders), text, screenshot, pattern (test charts, masks). Of objects: object, scan.
        licences: The same for its licence.
        copyright: A Debian copyright file that states licence and holders of each file, used for
            files that no rule of ``licences`` names. It lies in the corpus too.
        stated_below: Where that file thinks ``root`` is.
        use: What these files may be used for, where that differs from `Sample.use`.
    """

    root: str
    take: tuple[str, ...]
    into: str = ""
    leave: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    content: tuple[Rule, ...] = ()
    licences: tuple[Rule, ...] = ()
    copyright: str = ""
    stated_below: str = ""
    use: Use | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A corpus: ``assets`` rows in ``listing``, a file of the fetched folder.

    ``archives`` are patterns of archives inside the packages; each is unpacked into
    ``archives/STEM``. ``files`` says how the corpus is laid out; one without them has a function
    of its own in `tokenmill_pipelines.samples.fetch`.
    """

    name: str
    summary: str
    licence: str
    assets: int
    packages: tuple[Package, ...]
    use: Use = "training"
    listing: str = "listing.jsonl"
    archives: tuple[str, ...] = ()
    files: tuple[Files, ...] = ()

    @property
    def download_bytes(self) -> int:
        """How much comes over the network."""
        return sum(package.size_bytes for package in self.packages)


@dataclass(frozen=True, slots=True)
class _Table:
    sample: tuple[Sample, ...]


#: The files of facts: what may be trained on by kind, and what is for judging.
KINDS = ("pictures", "clips", "objects", "judging")


@functools.cache
def _read() -> tuple[Sample, ...]:
    folder = resources.files("tokenmill_pipelines.samples") / "corpora"
    samples: list[Sample] = []
    for kind in KINDS:
        file = folder / f"{kind}.toml"
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        samples += build(_Table, table, path="").sample
    return tuple(samples)


def catalogue() -> list[Sample]:
    """Return the corpora that `tokenmill_pipelines.samples.fetch.fetch` knows."""
    return list(_read())


def find_sample(name: str) -> Sample:
    """Return the corpus of that name.

    Raises:
        JobError: there is none.
    """
    samples = _read()
    for sample in samples:
        if sample.name == name:
            return sample
    names = [sample.name for sample in samples]
    raise JobError(f"there is no sample corpus {name!r}; {nearest(name, names)}")
