"""What every torch image tokenizer does the same: pixels in, arrays out, on one device.

A tokenizer gives a module that maps image tensors to token tensors (and back, where it can);
`ImageEncoder` does the rest: exact normalisation, transfers, mixed precision, rounding to pixels.
TF32 is left as the process has it, which is off unless somebody turned it on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.describe import (
    HALF,
    SIGNED,
    UNIT,
    Dtype,
    Normalisation,
    grid,
    no_decoder,
)
from tokenmill_schemas.tokens import Stream, TokenSpec

__all__ = [
    "HALF",
    "SIGNED",
    "UNIT",
    "Dtype",
    "ImageEncoder",
    "ImageNetwork",
    "Normalisation",
    "from_host",
    "grid",
    "no_decoder",
    "to_host",
]

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class ImageNetwork(Protocol):
    """A torch module with the two directions of a tokenizer; tensors on its own device."""

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """Return a tensor ``[B, *stream shape]`` per stream for float32 ``[B, 3, H, W]``."""
        ...

    def images(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 3, H, W]`` in the range of the input's normalisation."""
        ...


class ImageEncoder:
    """The live encoder of an image tokenizer (see `tokenmill.tokenizers.base.Encoder`).

    Args:
        network: a torch module that is an `ImageNetwork`.
        spec: its token spec; sets the types of the arrays that `encode` returns.
        normalisation: of the input, and inverted on the output.
        dtype: ``float32``, or the type that convolutions and products run in under autocast.
        device: where the network goes.
    """

    def __init__(
        self,
        network: ImageNetwork,
        spec: TokenSpec,
        *,
        normalisation: Normalisation = HALF,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"{type(network).__name__} is not a torch module")
        self.device = torch.device(device)
        self.layout = self._layout(self.device, dtype)
        module = cast("Any", network)  # the stubs of Module.to leave out memory_format
        module.eval().requires_grad_(False).to(self.device, memory_format=self.layout)
        self.network: Any = module
        self.spec = spec
        self.normalisation = normalisation
        self.dtype = dtype
        self._table = torch.from_numpy(normalisation.table()).to(self.device)

    def preprocess(self, pixels: Pixels) -> Tensor:
        """Turn ``uint8[B, H, W, 3]`` into float32 ``[B, 3, H, W]`` on the device."""
        index = self._to_device(torch.from_numpy(np.ascontiguousarray(pixels)))
        if self._table.shape[1] == 1:
            values = self._table[:, 0][index.int()]
        else:
            values = torch.stack([self._table[:, c][index[..., c].int()] for c in range(3)], -1)
        return values.movedim(-1, 1).contiguous(memory_format=self.layout)

    def encode(self, inputs: Tensor) -> Tokens:
        """Return one host array ``[B, *stream shape]`` per stream, in its storage type.

        ``inputs`` is what `preprocess` gave, or any float32 tensor of that shape and range.
        """
        inputs = inputs.to(self.device).contiguous(memory_format=self.layout)
        with torch.inference_mode(), self._autocast():
            tokens = self.network.tokens(inputs)
        return {name: to_host(value, self.spec[name]) for name, value in tokens.items()}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Return reconstructions ``uint8[B, H, W, 3]``.

        Raises:
            JobError: the network, or its checkpoint, has no decoder.
        """
        given = {k: self._to_device(from_host(v, self.spec[k])) for k, v in tokens.items()}
        with torch.inference_mode(), self._autocast():
            images = self._reconstruct(given)
        return self._to_pixels(images.float())

    def codebook(self) -> dict[str, npt.NDArray[Any]]:
        """Return the codes ``float32[K, D]`` of every stream of ids, if the network has any."""
        vectors = getattr(self.network, "code_vectors", lambda: None)()
        if vectors is None:
            return {}
        return {stream.name: vectors for stream in self.spec.streams if stream.kind == "index"}

    def fsq_levels(self) -> dict[str, tuple[int, ...]]:
        """Return the levels that make an id of each stream, if it is quantized by levels."""
        found: dict[str, tuple[int, ...]] = getattr(self.network, "fsq_levels", dict)()
        return found

    def close(self) -> None:
        """Free the device's memory."""
        self.network = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _reconstruct(self, tokens: dict[str, Tensor]) -> Tensor:
        images: Tensor = self.network.images(tokens)
        return images

    @staticmethod
    def _layout(device: torch.device, dtype: Dtype) -> torch.memory_format:
        """Channels last where convolutions run faster so.

        In float32 on a CPU that gains under a tenth, and sums in an order that takes latents three
        times as far from the float64 ones as contiguous channels do, so ids near a tie would flip.
        """
        exact = device.type == "cpu" and dtype == "float32"
        return torch.contiguous_format if exact else torch.channels_last

    def _autocast(self) -> torch.autocast:
        kind = TORCH_DTYPES[self.dtype] if self.dtype != "float32" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=kind, enabled=self.dtype != "float32")

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _to_pixels(self, images: Tensor) -> Pixels:
        with torch.inference_mode():
            unit = images.new_tensor
            if self.normalisation.rule == "signed":
                mean, std = unit([0.5]), unit([0.5])
            else:
                mean, std = unit(self.normalisation.mean), unit(self.normalisation.std)
            values = images.movedim(1, -1) * std + mean
            rounded = values.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
            return rounded.contiguous().cpu().numpy()


def to_host(value: Tensor, stream: Stream) -> npt.NDArray[Any]:
    """Return a stream's tensor as an array of its storage type (bfloat16 as its uint16 bits).

    Raises:
        ValueError: a latent is infinite or no number in that type, as of a network that overflows
            in float16.
    """
    if stream.kind == "float":
        value = value.to(TORCH_DTYPES[stream.dtype]).contiguous()
        if not bool(value.isfinite().all()):
            raise ValueError(f"latents are not finite as {stream.dtype}; choose another dtype")
        if stream.dtype == "bfloat16":
            value = value.view(torch.int16)
        return value.cpu().numpy().view(stream.storage_dtype)
    return value.cpu().numpy().astype(stream.storage_dtype)


def from_host(array: npt.NDArray[Any], stream: Stream) -> Tensor:
    """Return the tensor of a stream's stored values: float32, or int64 ids and bits."""
    if stream.kind != "float":
        return torch.from_numpy(array.astype(np.int64))
    if stream.dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).float()
    return torch.from_numpy(array.astype(np.float32))
