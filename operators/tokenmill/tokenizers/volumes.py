"""What every torch tokenizer of occupancy grids does the same: booleans in, arrays out.

A tokenizer gives a module that maps occupancy to token tensors and tokens to logits;
`VolumeEncoder` does the rest. ``float32`` is exact on a CPU; the other types run the network's
torso, all but its first and last convolution, in that type, as its authors trained it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenmill.tokenizers.base import Tokens
from tokenmill.tokenizers.describe import Dtype
from tokenmill.tokenizers.images import TORCH_DTYPES, from_host, to_host
from tokenmill_schemas.tokens import TokenSpec

Volumes = npt.NDArray[np.bool_]


class VolumeNetwork(Protocol):
    """A torch module with the two directions of a tokenizer; tensors on its own device."""

    def set_torso(self, dtype: torch.dtype) -> None:
        """Run the inner layers in ``dtype``."""
        ...

    def tokens(self, volumes: Tensor) -> dict[str, Tensor]:
        """Return a tensor ``[B, *stream shape]`` per stream for float32 ``[B, 1, R, R, R]``."""
        ...

    def logits(self, tokens: dict[str, Tensor]) -> Tensor:
        """Return ``[B, 1, R, R, R]``: above 0 where a cell is occupied."""
        ...


class VolumeEncoder:
    """The live encoder of a tokenizer of volumes (see `tokenmill.tokenizers.base.Encoder`).

    Args:
        network: a torch module that is a `VolumeNetwork`.
        spec: its token spec; sets the types of the arrays that `encode` returns.
        dtype: of the network's torso.
        device: where the network goes.
    """

    def __init__(
        self,
        network: VolumeNetwork,
        spec: TokenSpec,
        *,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"{type(network).__name__} is not a torch module")
        self.device = torch.device(device)
        network.eval().requires_grad_(False).to(self.device)
        self.network: Any = cast("Any", network)
        self.network.set_torso(TORCH_DTYPES[dtype])
        self.spec = spec

    def preprocess(self, views: Volumes) -> Tensor:
        """Turn ``bool[B, R, R, R]`` into float32 ``[B, 1, R, R, R]`` on the device."""
        cells = torch.from_numpy(np.ascontiguousarray(views)).to(self.device)
        return cells[:, None].float()

    def encode(self, inputs: Tensor) -> Tokens:
        """Return one host array ``[B, *stream shape]`` per stream, in its storage type."""
        with torch.inference_mode():
            tokens = self.network.tokens(inputs.to(self.device))
        return {name: to_host(value, self.spec[name]) for name, value in tokens.items()}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Volumes:
        """Return reconstructions ``bool[B, R, R, R]``.

        Raises:
            JobError: the network, or its checkpoint, has no decoder.
        """
        given = {k: from_host(v, self.spec[k]).to(self.device) for k, v in tokens.items()}
        with torch.inference_mode():
            occupied: Volumes = (self.network.logits(given)[:, 0] > 0).cpu().numpy()
        return occupied

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
