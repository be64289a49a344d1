"""What a tokenizer is: a cheap description, and the live encoder that it loads.

The description crosses processes and is hashed; the encoder holds the weights and never leaves the
actor that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import TokenSpec

Pixels = npt.NDArray[np.uint8]
Tokens = dict[str, npt.NDArray[Any]]


class Encoder(Protocol):
    """A live network on one device."""

    def preprocess(self, pixels: Pixels) -> Any:
        """Turn ``uint8[B, H, W, 3]`` into the network's input (float ``[B, 3, H, W]`` mostly)."""
        ...

    def encode(self, inputs: Any) -> Tokens:
        """Return one array ``[B, *stream shape]`` per stream of the spec, on the host.

        The result for one sample does not depend on the number of actors. Raises the device's
        own out-of-memory error when the batch is too large; the caller then halves it.
        """
        ...

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Return reconstructions ``uint8[B, H, W, 3]``.

        Raises:
            JobError: this tokenizer has no decoder, or its checkpoint has none.
        """
        ...

    def close(self) -> None:
        """Free the device's memory; the encoder is of no use afterwards."""
        ...


class Tokenizer(Protocol):
    """A frozen, picklable, cheap description of a tokenizer."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change an id, as JSON: architecture, weights' sha256, dtype, ..."""
        ...

    @property
    def resources(self) -> Resources:
        """What one encoder needs of a machine."""
        ...

    @property
    def default_view(self) -> dict[str, Any]:
        """The ``[view]`` section that the authors' own preprocessing amounts to."""
        ...

    @property
    def can_decode(self) -> bool:
        """Whether `Encoder.decode` works."""
        ...

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return the token spec for views of ``size`` (height, width), None where they vary.

        Raises:
            JobError: the tokenizer cannot take views of this size; says which it can.
        """
        ...

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: keys are missing, shapes differ, or the file is not safe to read.
        """
        ...
