"""Features of pictures for a Frechet distance: filters that are built in, or a network of a file.

What is built in is no network and nothing learned: means of rectified responses of small derivative
filters, tile by tile. Its distance says how far the statistics of edges, texture and colour moved;
it is comparable between reports that name the same features, and with nothing else. It is never
called FID, which is the distance on the features of one particular Inception network.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokenmill.views.base import Pixels
from tokenmill_schemas.errors import JobError

Floats = npt.NDArray[np.float64]

TILE = 64
SCALES = 3
#: Keeps the logarithm of a flat tile's response finite: a hundredth of a level.
FLOOR = 1e-2


class Features(Protocol):
    """Something that describes pictures by vectors."""

    @property
    def name(self) -> str:
        """What a distance on it is called after."""
        ...

    def of(self, picture: Pixels, /) -> Floats:
        """Return ``float64[N, D]`` of ``uint8[H, W, 3]``: a vector for each tile, or one in all."""
        ...


class Filters:
    """Features of tiles of 64 x 64 pixels: 26 numbers each.

    Per scale (three, each half of the one before) and of luma: the mean size of differences in four
    directions and of the Laplacian, and the deviation, all as logarithms. Then mean and deviation
    of red-green and of blue-yellow; mean, darkest and lightest tenth of luma; and how much the
    quarters of the tile differ.
    """

    name = f"derivative filters on {TILE}x{TILE} tiles (built in, version 1, not a network)"

    def of(self, picture: Pixels) -> Floats:
        """Return ``float64[N, 26]``; a picture smaller than a tile is one tile."""
        height, width = picture.shape[:2]
        rows = range(0, max(1, height - TILE + 1), TILE)
        columns = range(0, max(1, width - TILE + 1), TILE)
        return np.stack([_tile(picture[y : y + TILE, x : x + TILE]) for y in rows for x in columns])


def _tile(tile: Pixels) -> Floats:
    red, green, blue = (tile[..., channel].astype(np.float64) for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    found: list[float] = []
    plane = luma
    for _ in range(SCALES):
        found += [float(np.log(FLOOR + value)) for value in _responses(plane)]
        plane = _halved(plane) if min(plane.shape) >= 8 else plane
    for opponent in (red - green, (red + green) / 2 - blue):
        found += [float(opponent.mean()) / 32, float(np.log(FLOOR + opponent.std()))]
    low, high = np.quantile(luma, [0.1, 0.9])
    quarters = [part.mean() for half in np.array_split(luma, 2) for part in _halves(half)]
    return np.array([*found, luma.mean() / 32, low / 32, high / 32, float(np.std(quarters)) / 32])


def _halves(plane: Floats) -> list[Floats]:
    return [np.asarray(part) for part in np.array_split(plane, 2, axis=1)]


def _responses(plane: Floats) -> list[float]:
    across, down = np.diff(plane, axis=1), np.diff(plane, axis=0)
    falling = plane[1:, 1:] - plane[:-1, :-1]
    rising = plane[1:, :-1] - plane[:-1, 1:]
    around = plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:]
    second = around - 4 * plane[1:-1, 1:-1]
    sizes = [float(np.abs(part).mean()) for part in (across, down, falling, rising, second)]
    return [*sizes, float(plane.std())]


def _halved(plane: Floats) -> Floats:
    height, width = (side // 2 * 2 for side in plane.shape)
    even = plane[:height, :width]
    return np.asarray((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)


class ScriptedNetwork:
    """A network in a TorchScript file: ``float32[N, 3, H, W]`` in [0, 1] to ``float32[N, D]``.

    Normalising and resizing are the file's own affair. It is named by its file and its sha256.

    Raises:
        JobError: the file cannot be read as TorchScript.
    """

    def __init__(self, path: str) -> None:
        import torch

        file = Path(path)
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            jit: Any = torch.jit  # typed in part
            self._network = jit.load(str(file), map_location="cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise JobError(f"{path} is no TorchScript file: {error}", path="features") from error
        self.name = f"{file.name} (TorchScript, sha256 {digest[:12]})"

    def of(self, picture: Pixels) -> Floats:
        """Return ``float64[1, D]``."""
        import torch

        tensor = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        with torch.inference_mode():
            found = self._network(tensor)
        return np.asarray(found.reshape(len(found), -1).double().numpy())


def open_features(path: str) -> Features:
    """Return the network of a file, or the filters that are built in where none is named.

    Raises:
        JobError: the file cannot be read as TorchScript.
    """
    return ScriptedNetwork(path) if path else Filters()
