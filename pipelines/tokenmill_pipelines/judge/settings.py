"""What a judgement is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["codecs", "prefixes", "perturbed", "text", "faces"]
PARTS: tuple[Part, ...] = ("codecs", "prefixes", "perturbed", "text", "faces")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is judged, and by what; equal settings and inputs give equal figures.

    Attributes:
        limit: assets, 0 for all; those whose keys have the lowest hashes, so they are spread over
            the listing and stay the same ones when it grows.
        views_per_asset: the first so many views of each asset.
        content: the class of content of all assets, "" takes it from the listing.
        column: the column of the listing that says it.
        skip: parts that are left out, each of `PARTS`.
        rates: shares of ids that are replaced.
        prefixes: numbers of tokens that prefix-decodable streams are cut to.
        features: a TorchScript file for the Frechet distance, see `judge.features`; "" takes the
            filters that are built in.
        pictures: views shown of each of the worst, the middle and the best.
        seed: of the ids that are replaced, and by what.
    """

    limit: int = 64
    views_per_asset: int = 4
    content: str = ""
    column: str = "content"
    skip: tuple[Part, ...] = ()
    rates: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    prefixes: tuple[int, ...] = (16, 32, 64, 128)
    features: str = ""
    pictures: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 0 or self.views_per_asset < 1 or self.pictures < 0:
            raise ValueError("limit and pictures must be 0 or more, views_per_asset 1 or more")
        unknown = sorted(set(self.skip) - set(PARTS))
        if unknown:
            raise ValueError(f"skip has {unknown}; parts are {', '.join(PARTS)}")
        if not all(0 <= rate <= 1 for rate in self.rates):
            raise ValueError(f"rates are shares from 0 to 1, got {self.rates}")
        if not all(length >= 1 for length in self.prefixes):
            raise ValueError(f"prefixes are positive, got {self.prefixes}")

    def wants(self, part: Part) -> bool:
        """Whether a part is not left out."""
        return part not in self.skip
