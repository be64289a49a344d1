"""Real corpora that can be fetched by name: which packages they lie in, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest


@dataclass(frozen=True, slots=True)
class Package:
    """A file of a package registry; ``sha256`` is that of ``version``."""

    registry: Literal["debian", "pypi"]
    name: str
    version: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A corpus: ``assets`` rows in ``listing``, a file of the fetched folder."""

    name: str
    summary: str
    licence: str
    assets: int
    listing: str
    packages: tuple[Package, ...]

    @property
    def download_bytes(self) -> int:
        """How much comes over the network."""
        return sum(package.size_bytes for package in self.packages)


_CATALOGUE = (
    Sample(
        "openclipart",
        "Clip art with titles, descriptions and keywords: 6,900 PNG files under 8,121 names",
        "public domain; a licence of its own per picture in the listing",
        8121,
        "listing.jsonl",
        (
            Package(
                "debian",
                "openclipart-png",
                "1:0.18+dfsg-19",
                "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
                130_910_028,
            ),
            Package(
                "debian",
                "openclipart-svg",
                "1:0.18+dfsg-19",
                "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
                24_919_068,
            ),
        ),
    ),
    Sample(
        "fashion-mnist",
        "Labelled pictures of clothes, 28x28 grey, as PNG bytes in one Parquet listing",
        "MIT",
        70_000,
        "listing.parquet",
        (
            Package(
                "debian",
                "dataset-fashion-mnist",
                "0.0~git20200523.55506a9-1",
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                30_900_652,
            ),
        ),
    ),
    Sample(
        "lomiri-wallpapers",
        "Camera photographs, short side 1074 to 3168 pixels",
        "CC-BY-4.0, CC-BY-SA-4.0 or CC0-1.0 per picture in the listing",
        15,
        "listing.jsonl",
        (
            Package(
                "debian",
                "lomiri-wallpapers-16.04",
                "20.04.0-2",
                "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
                15_783_184,
            ),
        ),
    ),
    Sample(
        "iscc-samples",
        "One picture in six formats and one clip of a minute in twenty-one containers",
        "CC-BY-4.0",
        27,
        "listing.jsonl",
        (
            Package(
                "pypi",
                "iscc-samples",
                "0.6.0",
                "5714df1ecbc49df091042fabf2f96a9c99623eb442453598db26198c7d187d22",
                54_176_710,
            ),
        ),
    ),
)


def catalogue() -> list[Sample]:
    """Return the corpora that `tokenmill_pipelines.samples.fetch.fetch` knows."""
    return list(_CATALOGUE)


def find_sample(name: str) -> Sample:
    """Return the corpus of that name.

    Raises:
        JobError: there is none.
    """
    for sample in _CATALOGUE:
        if sample.name == name:
            return sample
    names = [sample.name for sample in _CATALOGUE]
    raise JobError(f"there is no sample corpus {name!r}; {nearest(name, names)}")
