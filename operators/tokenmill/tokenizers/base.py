"""What a tokenizer is: a cheap description, and the live encoder that it loads.

The description crosses processes and is hashed; the encoder holds the weights and never leaves the
actor that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import TokenSpec

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
#: One array ``[B, *stream shape]`` per stream, or a list of B arrays where their shapes differ.
Tokens = dict[str, Any]


class Encoder(Protocol):
    """A live network on one device."""

    def preprocess(self, views: Any, /) -> Any:
        """Turn stacked views (``uint8[B, H, W, 3]`` images, ...) into the network's input."""
        ...

    def encode(self, inputs: Any, /) -> Tokens:
        """Return the tokens of every stream of the spec, on the host.

        The result for one sample does not depend on the number of actors. Raises the device's
        own out-of-memory error when the batch is too large; the caller then halves it. Raises an
        `AssetError` for a view that has no tokens, such as a mesh that a rule cannot order.
        """
        ...

    def decode(self, tokens: Mapping[str, Any], /) -> Any:
        """Return reconstructions, stacked views of the kind that it takes (a list if ragged).

        A tokenizer of clips and images gives clips, an image as one of one frame.

        Raises:
            JobError: this tokenizer has no decoder, or its checkpoint has none.
        """
        ...

    def close(self) -> None:
        """Free the device's memory; the encoder is of no use afterwards."""
        ...


class EncoderStream(Protocol):
    """One long clip on its way through an encoder, in bounded memory."""

    def push(self, frames: Pixels) -> None:
        """Take the next ``uint8[t, H, W, 3]`` frames, as many as the caller happens to have."""
        ...

    def finish(self) -> Tokens:
        """Return the tokens ``[1, *stream shape]`` of all that was pushed.

        They equal those of `Encoder.encode` for the same clip in one piece.

        Raises:
            ValueError: the number of frames does not fit the tokenizer.
        """
        ...


@runtime_checkable
class StreamingEncoder(Encoder, Protocol):
    """An encoder that takes clips in parts."""

    def open_stream(self) -> EncoderStream:
        """Return a stream of its own for one clip; several may be open, used in turns."""
        ...


@runtime_checkable
class HasCodebook(Encoder, Protocol):
    """An encoder whose ids stand for vectors that a feed may need."""

    def codebook(self) -> dict[str, Array]:
        """Return ``<stream>``: the codes as a decoder gets them, ``float32[vocabulary, D]``.

        Further arrays are what the codes are combined with, such as VAR's ``phi.<i>.weight`` and
        ``phi.<i>.bias``. Empty where codes follow from a rule (FSQ, binary), or there are none.
        It may be called from any thread while the encoder works.
        """
        ...


class Tokenizer(Protocol):
    """A frozen, picklable, cheap description of a tokenizer."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change an id, as JSON: architecture, weights' sha256, dtype, ..."""
        ...

    @property
    def takes(self) -> tuple[ViewKind, ...]:
        """The kinds of views that it can encode."""
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

    def spec(self, shape: Any, /) -> TokenSpec:
        """Return the token spec for views of ``shape``, as `tokenmill.views.base.View.shape` says.

        None (or an axis None) stands for what varies.

        Raises:
            JobError: the tokenizer cannot take views of this shape; says which it can.
        """
        ...

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: keys are missing, shapes differ, or the file is not safe to read.
        """
        ...
