"""Parts that descriptions of torch tokenizers have in common; all of it without torch.

Normalisation, where weights come from, identity, grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.tokenizers.locate import checkpoint_digest
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis

if TYPE_CHECKING:
    from torch import nn

    from tokenmill.tokenizers.checkpoints import Assigned

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How a uint8 value becomes the network's float32 input, to the last bit.

    ``to_tensor``: ``(x / 255 - mean) / std``, every step in float32, as torchvision's ToTensor and
    Normalize do. ``signed``: ``x / 127.5 - 1`` in float64, then float32, as taming-transformers
    does. One mean and std for all channels, or one each.
    """

    rule: Literal["to_tensor", "signed"] = "to_tensor"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    @property
    def identity(self) -> dict[str, Any]:
        """The rule as JSON."""
        if self.rule == "signed":
            return {"rule": "x/127.5-1"}
        return {"rule": "(x/255-mean)/std", "mean": list(self.mean), "std": list(self.std)}

    def table(self) -> npt.NDArray[np.float32]:
        """Return the image of every uint8 value: ``float32[256, 1 or 3]``.

        A table, because devices divide differently (CUDA multiplies by the reciprocal).
        """
        x = np.arange(256)[:, None]
        if self.rule == "signed":
            return (x / 127.5 - 1.0).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.asarray((x.astype(np.float32) / np.float32(255) - mean) / std, dtype=np.float32)


#: Input in [-1, 1], the rule of most published tokenizers.
HALF = Normalisation()
SIGNED = Normalisation("signed")
#: Input in [0, 1].
UNIT = Normalisation(mean=(0.0,), std=(1.0,))


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a network's weights are; see `tokenmill.tokenizers.checkpoints.load_weights`.

    ``optional`` prefixes of the network may be missing as a whole, such as its decoder.
    """

    checkpoint: str
    unwrap: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """The file's sha256, and which of the weights in it are meant.

        Raises:
            CheckpointError: there is no such file.
            TransientError: a remote place did not answer.
        """
        sha256 = checkpoint_digest(self.checkpoint, select=self.select)
        return {"sha256": sha256, "unwrap": list(self.unwrap), "select": list(self.select)}

    def load_into(self, network: nn.Module) -> Assigned:
        """Fill a network, also one on the meta device.

        Raises:
            CheckpointError: the file is not there, not safe to read, or not of this network.
        """
        from tokenmill.tokenizers.checkpoints import load_into

        return load_into(
            network,
            self.checkpoint,
            unwrap=self.unwrap,
            select=self.select,
            optional=self.optional,
        )


def identity_of(
    kind: str, architecture: Any, *, weights: Weights, dtype: str, normalisation: Normalisation
) -> dict[str, Any]:
    """Return a tokenizer's identity: what can change an id, as JSON.

    ``architecture`` is a dataclass instance or a mapping.
    """
    fields: Mapping[str, Any]
    fields = architecture if isinstance(architecture, Mapping) else asdict(architecture)
    return {
        "kind": kind,
        "architecture": {key: _plain(value) for key, value in fields.items()},
        "weights": weights.identity,
        "dtype": dtype,
        "normalisation": normalisation.identity,
    }


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def conv_resources(ch: int) -> Resources:
    """Return the needs of a convolutional autoencoder of width ``ch`` on pictures of 256 x 256.

    Four float32 maps of ``ch`` channels at full resolution live at once; the batch is chosen so
    that they take about 2 GiB.
    """
    batch_size = max(4, min(64, 2048 // ch))
    maps = 4 * batch_size * ch * 256 * 256 * 4
    return Resources(gpus=1.0, cpus=1.0, memory_bytes=maps + 2**30, batch_size=batch_size)


def no_decoder(kind: str) -> JobError:
    """Return the error of a `decode` whose weights are missing."""
    return JobError(f"{kind}: its checkpoint holds no decoder, so tokens cannot become pictures")


def grid(size: tuple[int, int] | None, factor: int, *, kind: str) -> tuple[Axis, Axis]:
    """Return the axes ``h`` and ``w`` of a grid with one position per ``factor`` x ``factor``.

    Raises:
        JobError: a side is not a multiple of ``factor``.
    """
    if size is None:
        return Axis("h"), Axis("w")
    if size[0] % factor or size[1] % factor or min(size) < factor:
        raise JobError(
            f"{kind} takes views whose height and width are multiples of {factor}, "
            f"got {size[0]} x {size[1]}",
            path="view.size",
        )
    return Axis("h", size[0] // factor), Axis("w", size[1] // factor)
