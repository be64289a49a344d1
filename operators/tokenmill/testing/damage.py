"""A tokenizer on a device that is broken, for tests of what must notice it; named in jobs by path.

    [tokenizer]
    kind = "tokenmill.testing.damage:DamagedVQ"
    damage = "collapse"

Damage is no part of an identity, as that of a device is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.patch_vq import PatchEncoder, PatchVQ
from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import TokenSpec

#: ``shuffled``: the codebook's rows are in another order than the ids mean. ``collapse``: every
#: patch gets one id. ``stale``: every view gets the ids of the first that there was. ``decoder``:
#: it raises. ``memory``: it has no room. ``smaller``: it gives back half of each side.
Damage = Literal["", "shuffled", "collapse", "stale", "decoder", "memory", "smaller"]


@dataclass(frozen=True, slots=True)
class DamagedVQ:
    """`tokenmill.tokenizers.patch_vq`, damaged."""

    damage: Damage = ""

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    @property
    def identity(self) -> dict[str, Any]:
        """That of the undamaged one."""
        return PatchVQ().identity

    @property
    def resources(self) -> Resources:
        """Those of the undamaged one."""
        return PatchVQ().resources

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 32 pixels."""
        return {"kind": "center_crop", "size": 32, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """So it says."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return that of the undamaged one."""
        return PatchVQ().spec(size)

    def load(self, device: str = "cpu") -> DamagedEncoder:
        """Return the encoder."""
        whole = PatchVQ().load(device)
        if not isinstance(whole, PatchEncoder):
            raise TypeError(f"patch_vq of pictures loads {type(whole).__name__}")
        return DamagedEncoder(whole, self.damage)


class DamagedEncoder:
    """The live side of `DamagedVQ`."""

    def __init__(self, whole: PatchEncoder, damage: Damage) -> None:
        self._whole = whole
        self._damage = damage
        self._first: npt.NDArray[Any] | None = None

    def preprocess(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return what the undamaged one makes of the pixels."""
        return self._whole.preprocess(pixels)

    def encode(self, inputs: npt.NDArray[np.float32]) -> Tokens:
        """Return ``image`` ``[B, h, w]``, as the damage has it."""
        ids = self._whole.encode(inputs)["image"]
        if self._damage == "shuffled":
            codes = len(self._whole.codebook()["image"])
            ids = ((ids.astype(np.int64) * 2731 + 977) % codes).astype(ids.dtype)
        if self._damage == "collapse":
            ids = np.full_like(ids, 7)
        if self._damage == "stale":
            first = ids[:1] if self._first is None else self._first
            self._first, ids = first, np.repeat(first, len(ids), axis=0)
        return {"image": ids}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Return pictures.

        Raises:
            RuntimeError: the damage is that it does.
            MemoryError: the damage is that it has no room.
        """
        if self._damage == "decoder":
            raise RuntimeError(f"the device is gone, said {object()!r}")
        if self._damage == "memory":
            raise MemoryError("no room")
        step = 2 if self._damage == "smaller" else 1
        return self._whole.decode(tokens)[:, ::step, ::step]

    def close(self) -> None:
        """Hold nothing."""
