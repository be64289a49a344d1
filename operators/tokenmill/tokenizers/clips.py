"""What every torch clip tokenizer does the same: frames in, arrays out, on one device.

As `tokenmill.tokenizers.images`, with time: a network maps clip tensors to token tensors and back.
An image is a clip of one frame; what a tokenizer makes of that is the network's affair.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tokenmill.tokenizers.base import Pixels
from tokenmill.tokenizers.describe import HALF, SIGNED, UNIT, Dtype, Normalisation
from tokenmill.tokenizers.images import ImageEncoder
from tokenmill_schemas.tokens import TokenSpec

__all__ = ["HALF", "SIGNED", "UNIT", "ClipEncoder", "ClipNetwork", "Dtype", "Normalisation"]


class ClipNetwork(Protocol):
    """A torch module with the two directions of a tokenizer; tensors on its own device."""

    def tokens(self, clips: Tensor) -> dict[str, Tensor]:
        """Return a tensor ``[B, *stream shape]`` per stream for float32 ``[B, 3, T, H, W]``."""
        ...

    def clips(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, T, H, W]`` in the range of the input's normalisation."""
        ...


class ClipEncoder(ImageEncoder):
    """The live encoder of a clip tokenizer; arguments as those of `ImageEncoder`.

    `decode` gives ``uint8[B, T, H, W, 3]``, also (with T = 1) where an image was encoded.
    """

    def __init__(
        self,
        network: ClipNetwork,
        spec: TokenSpec,
        *,
        normalisation: Normalisation = HALF,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            cast("Any", network), spec, normalisation=normalisation, dtype=dtype, device=device
        )

    def preprocess(self, views: Pixels) -> Tensor:
        """Turn ``uint8[B, T, H, W, 3]``, or images without T, into float32 ``[B, 3, T, H, W]``."""
        return super().preprocess(views[:, None] if views.ndim == 4 else views)

    def _reconstruct(self, tokens: dict[str, Tensor]) -> Tensor:
        clips: Tensor = self.network.clips(tokens)
        return clips

    @staticmethod
    def _layout(_device: torch.device, _dtype: Dtype) -> torch.memory_format:
        """Contiguous channels: the networks change between two and three axes as they go."""
        return torch.contiguous_format
