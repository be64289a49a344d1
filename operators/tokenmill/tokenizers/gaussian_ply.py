"""Gaussian splats as unordered sets of quantised attributes, exactly, without weights.

Every attribute of a Gaussian becomes the number of the bin it lies in; a bin decodes to its middle.
The two streams have a Gaussian a row, ``geometry`` of 11 ids and ``features`` of 4 to 49:

======== =========================== ========================================================
geometry x, y, z                     in [-extent / 2, extent / 2], ``position_bits``
         scale_0, scale_1, scale_2   logarithms in ``scale_range``, ``bits``
         face                        which component of the quaternion w, x, y, z is largest
         three ratios                of the others to it, in [-1, 1], ``rotation_bits``
         opacity                     logit in ``opacity_range``, ``bits``
features f_dc_0..2                   in ``colour_range``, ``bits``
         f_rest_0..                  in ``rest_range``, ``bits``
======== =========================== ========================================================

The quaternion is projected on the faces of a cube: q and -q are one rotation, so the largest
component is made positive (the first of equals), and the ratios to it need no square root. The
middle of a ratio's bin lies strictly inside (-1, 1), so every combination of ids is a rotation and
finds its own ids again. Hence all ids within the vocabulary are valid, and two laws hold: decoding
what was encoded gives each attribute the middle of its bin, and encoding what was decoded gives the
same set of ids.

A set has one sequence: rows stand in the Morton order of their positions (G. M. Morton, "A Computer
Oriented Geodetic Data Base", 1966), rows in one cell by their other ids, so equal sets are equal
bytes. Values beyond a range fall into its last bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.ply import REST_COUNTS
from tokenmill.tokenizers.base import Tokens
from tokenmill.views.base import ViewKind
from tokenmill.views.gaussians import Layout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]
Range = tuple[float, float]

#: With more bits the middle of a bin would no longer be a float32 of its own.
MAX_BITS = 20
_RATIO: Range = (-1.0, 1.0)
_FACES = 4
_POSITION, _SCALE, _FACE, _RATIOS, _OPACITY = (
    slice(0, 3), slice(3, 6), 6, slice(7, 10), slice(10, 11),
)  # fmt: skip
#: The components of a quaternion but one, for each one.
_OTHERS = np.array([[j for j in range(_FACES) if j != i] for i in range(_FACES)])


def bins(values: npt.NDArray[np.floating[Any]], bounds: Range, bits: int) -> Ids:
    """Return which of ``2^bits`` equal bins of ``bounds`` each value lies in, the nearest if none.

    Raises:
        ValueError: a value is no number.
    """
    low, high = bounds
    scaled = (values.astype(np.float64) - low) * (2**bits / (high - low))
    if np.isnan(scaled).any():
        raise ValueError("an attribute of a Gaussian is no number")
    found: Ids = np.clip(np.floor(scaled), 0, 2**bits - 1).astype(np.int64)
    return found


def middles(ids: Ids, bounds: Range, bits: int) -> npt.NDArray[np.float64]:
    """Return the middle of each bin."""
    low, high = bounds
    return np.asarray(low + (ids + 0.5) * ((high - low) / 2**bits), np.float64)


def morton(cells: Ids) -> npt.NDArray[np.uint64]:
    """Return the Morton codes of cells ``int64[N, 3]`` below 2^21: bits of x, y, z in turn."""
    return sum(
        (_spread(cells[:, axis].astype(np.uint64)) << np.uint64(axis) for axis in range(3)),
        np.zeros(len(cells), np.uint64),
    )


def _spread(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return 21-bit numbers with two zeros before each bit."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def canonical_order(ids: Ids) -> npt.NDArray[np.intp]:
    """Return the order of rows ``int64[N, K]``: by the Morton code of the first three, then by all.

    Equal rows stay equal neighbours, however they came.
    """
    codes = morton(ids[:, :3])
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    same = np.zeros(len(codes) + 1, bool)
    same[1:-1] = codes[1:] == codes[:-1]
    shared = np.flatnonzero(same[:-1] | same[1:])  # few: rows that share their cell
    rows = ids[order[shared]]
    order[shared] = order[shared][np.lexsort((*rows.T[::-1], codes[shared]))]
    return order


def to_faces(rotations: Rows) -> tuple[Ids, npt.NDArray[np.float64]]:
    """Return the largest component of each quaternion and the others' ratios ``float64[N, 3]``.

    A quaternion of length 0 is no rotation and stands for none, w = 1.
    """
    wide = rotations.astype(np.float64)
    face = np.abs(wide).argmax(axis=1)
    largest = np.take_along_axis(wide, face[:, None], axis=1)
    others = np.take_along_axis(wide, _OTHERS[face], axis=1)
    return face, others / np.where(largest == 0, 1.0, largest)


def from_faces(face: Ids, ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return unit quaternions ``float64[N, 4]`` whose largest component is positive."""
    squares = ratios[:, 0] ** 2 + ratios[:, 1] ** 2 + ratios[:, 2] ** 2
    rotations = np.ones((len(face), _FACES))
    np.put_along_axis(rotations, _OTHERS[face], ratios, axis=1)
    return rotations / np.sqrt(1 + squares)[:, None]


class GaussianEncoder:
    """The live quantizer: numpy on one CPU; the device it is asked for does not matter."""

    def __init__(self, config: GaussianPly) -> None:
        self._config = config
        self._layout = Layout(config.degree)

    def preprocess(self, views: Sequence[Rows] | Rows) -> list[Rows]:
        """Return the views ``float32[N, C]``, stacked or of any N each, one by one.

        Raises:
            JobError: their channels are not those of this tokenizer's degree.
        """
        for rows in views:
            if rows.ndim != 2 or rows.shape[1] != self._layout.channels:
                raise JobError(
                    f"gaussian_ply of degree {self._config.degree} takes rows of "
                    f"{self._layout.channels} attributes, got {rows.shape}; set view.degree",
                    path="tokenizer.degree",
                )
        return list(views)

    def encode(self, inputs: Sequence[Rows]) -> Tokens:
        """Return ``geometry`` and ``features``, a list each of ids ``[N, 11]`` and ``[N, 4...]``.

        Raises:
            ValueError: an attribute is no number.
        """
        geometry, features = self._config.spec(None).streams
        found = [self._encode(rows) for rows in inputs]
        return {
            "geometry": [pair[0].astype(geometry.storage_dtype) for pair in found],
            "features": [pair[1].astype(features.storage_dtype) for pair in found],
        }

    def _encode(self, rows: Rows) -> tuple[Ids, Ids]:
        config, layout = self._config, self._layout
        face, ratios = to_faces(rows[:, layout.rotation])
        columns = [
            bins(rows[:, layout.position], config.bounds, config.position_bits),
            bins(rows[:, layout.scale], config.scale_range, config.bits),
            face[:, None],
            bins(ratios, _RATIO, config.rotation_bits),
            bins(rows[:, layout.opacity], config.opacity_range, config.bits),
            bins(rows[:, layout.colour], config.colour_range, config.bits),
            bins(rows[:, layout.rest], config.rest_range, config.bits),
        ]
        ids = np.concatenate(columns, axis=1)
        ids = ids[canonical_order(ids)]
        return ids[:, : config.geometry_ids], ids[:, config.geometry_ids :]

    def decode(self, tokens: Mapping[str, Any]) -> list[Rows]:
        """Return the splats ``float32[N, C]``, one per sample, their rows in the tokens' order."""
        pairs = zip(tokens["geometry"], tokens["features"], strict=True)
        return [self._decode(np.asarray(g, np.int64), np.asarray(f, np.int64)) for g, f in pairs]

    def _decode(self, geometry: Ids, features: Ids) -> Rows:
        config, layout = self._config, self._layout
        rows = np.empty((len(geometry), layout.channels), np.float32)
        rows[:, layout.position] = middles(
            geometry[:, _POSITION], config.bounds, config.position_bits
        )
        rows[:, layout.scale] = middles(geometry[:, _SCALE], config.scale_range, config.bits)
        ratios = middles(geometry[:, _RATIOS], _RATIO, config.rotation_bits)
        rows[:, layout.rotation] = from_faces(geometry[:, _FACE], ratios)
        rows[:, layout.opacity] = middles(geometry[:, _OPACITY], config.opacity_range, config.bits)
        rows[:, layout.colour] = middles(features[:, :3], config.colour_range, config.bits)
        rows[:, layout.rest] = middles(features[:, 3:], config.rest_range, config.bits)
        return rows

    def close(self) -> None:
        """Nothing is held but memory."""


@dataclass(frozen=True, slots=True)
class GaussianPly:
    """The description of a quantizer of Gaussian splats.

    The default ranges hold what training a splat leaves: it prunes opacities below 0.005 (a logit
    of -5.3), and a colour in [0, 1] has a constant term in [-1.8, 1.8].

    Attributes:
        degree: of the spherical harmonics, 0 to 3; the view's must be the same.
        extent: side of the cube in which positions lie, as of the view.
        position_bits: bits of a coordinate, 1 to 20.
        rotation_bits: bits of a ratio of the quaternion.
        bits: bits of every other attribute.
        scale_range: logarithms of the scales, in the view's units.
        opacity_range: logits.
        colour_range: constant terms of the harmonics.
        rest_range: their other coefficients.
    """

    degree: int = 0
    extent: float = 1.0
    position_bits: int = 16
    rotation_bits: int = 8
    bits: int = 8
    scale_range: Range = (-14.0, 0.0)
    opacity_range: Range = (-6.0, 10.0)
    colour_range: Range = (-4.0, 4.0)
    rest_range: Range = (-1.0, 1.0)

    takes: ClassVar[tuple[ViewKind, ...]] = ("gaussians",)
    #: Options that must be the view's: positions beyond the cube would move to its border.
    of_view: ClassVar[tuple[str, ...]] = ("degree", "extent")
    geometry_ids: ClassVar[int] = 11

    def __post_init__(self) -> None:
        if not 0 <= self.degree < len(REST_COUNTS):
            raise ValueError(f"degree must be 0 to {len(REST_COUNTS) - 1}, got {self.degree}")
        if not 0 < self.extent < float("inf"):
            raise ValueError(f"extent must be a positive number, got {self.extent}")
        for name in ("position_bits", "rotation_bits", "bits"):
            if not 1 <= getattr(self, name) <= MAX_BITS:
                raise ValueError(f"{name} must be 1 to {MAX_BITS}, got {getattr(self, name)}")
        for name in ("scale_range", "opacity_range", "colour_range", "rest_range"):
            _check_range(name, getattr(self, name), self.bits)

    @property
    def bounds(self) -> Range:
        """Between which every coordinate lies."""
        return -self.extent / 2, self.extent / 2

    @property
    def identity(self) -> dict[str, Any]:
        """The algorithm's version and all options."""
        options = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"kind": "gaussian_ply", "algorithm": 1, **options}

    @property
    def resources(self) -> Resources:
        """A CPU and memory for a million Gaussians; no GPU."""
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=2 * 2**30, batch_size=1)

    @property
    def default_view(self) -> dict[str, Any]:
        """The whole splat in the cube of this tokenizer's positions."""
        return {"kind": "gaussians", "degree": self.degree, "extent": self.extent}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, shape: tuple[int | None, ...] | None) -> TokenSpec:
        """Return the streams ``geometry`` and ``features``, of the same Gaussians, unordered."""
        rows = Axis("n", shape[0] if shape else None)
        face, ratio, rest = _FACES, 2**self.rotation_bits, 2**self.bits
        geometry = (*(2**self.position_bits,) * 3, *(rest,) * 3, face, *(ratio,) * 3, rest)
        features = (rest,) * (3 + Layout(self.degree).rest_count)
        return TokenSpec(
            (
                _stream("geometry", rows, geometry),
                _stream("features", rows, features, aligned_with="geometry"),
            )
        )

    def load(self, device: str = "cpu") -> GaussianEncoder:
        """Return the encoder. There are no weights, and the device is not used."""
        del device
        return GaussianEncoder(self)


def _stream(name: str, rows: Axis, sizes: tuple[int, ...], *, aligned_with: str = "") -> Stream:
    axes = (rows, Axis("coord", len(sizes)))
    return Stream(
        name, "index", axes, vocab_sizes=sizes, order="unordered", aligned_with=aligned_with
    )


def _check_range(name: str, bounds: Range, bits: int) -> None:
    """Check that a range is one, and that float32 tells the middles of its bins apart.

    Raises:
        ValueError: it is not, or does not.
    """
    low, high = bounds
    if not (-float("inf") < low < high < float("inf")):
        raise ValueError(f"{name} must be two numbers, the lower first, got {list(bounds)}")
    step, largest = (high - low) / 2**bits, max(abs(low), abs(high))
    if step < 8 * largest * float(np.finfo(np.float32).eps):
        raise ValueError(f"{name}: float32 does not tell {2**bits} bins of {list(bounds)} apart")


PLUGIN = GaussianPly
