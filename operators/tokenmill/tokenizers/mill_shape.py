"""Volumes as grids of ids, 8x8x8 cells an id: trained here.

Residual convolutions around finite scalar quantization (Mentzer et al., arXiv:2309.15505), learned
by ``tokenmill fit`` from the job ``mill_shape.toml``. The weights ship, with a model card beside
them. A volume of 64 cells a side becomes 512 ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import Dtype, Weights
from tokenmill.tokenizers.mill_weights import weights_of
from tokenmill.tokenizers.networks.mill_config import MillShapeConfig
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.mill_shape import MillShapeNetwork

BLOCK = 8


@dataclass(frozen=True, slots=True)
class MillShape:
    """A volume tokenizer of this project: one stream ``shape`` of ids on a grid of x, y and z.

    Attributes:
        checkpoint: weights in safetensors; the shipped ones if empty.
        config: changes to `tokenmill.tokenizers.networks.mill_config.MillShapeConfig`.
    """

    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    takes: ClassVar[tuple[ViewKind, ...]] = ("voxels",)
    dtype: ClassVar[Dtype] = "float32"

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> MillShapeConfig:
        """The network's widths and depths.

        Raises:
            JobError: a key of ``config`` is wrong.
        """
        return build(MillShapeConfig, self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return weights_of("mill_shape", self.checkpoint)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture and weights' sha256."""
        return {
            "kind": "mill_shape",
            "architecture": {
                name: getattr(self.architecture, name) for name in MillShapeConfig.__slots__
            }
            | {"levels": list(self.architecture.levels)},
            "weights": self.weights.identity,
            "dtype": self.dtype,
        }

    @property
    def resources(self) -> Resources:
        """Little memory; a GPU is taken if there is one."""
        return Resources(memory_bytes=2**30, batch_size=8)

    @property
    def default_view(self) -> dict[str, Any]:
        """The solid in 64 cells a side, the longest side filling the cube, z up."""
        return {
            "kind": "voxels",
            "resolution": 64,
            "normalise": "longest_side",
            "up": "z",
            "fill": "solid",
        }

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream ``shape`` of axes x, y and z, an id per 8x8x8 cells.

        Raises:
            JobError: a side is not a multiple of 8.
        """
        stream = Stream(
            "shape",
            "index",
            tuple(Axis(name) for name in "xyz"),
            vocab_sizes=(self.architecture.vocab_size,),
        )
        if shape is None:
            return TokenSpec((stream,))
        known = [side for side in shape if side is not None]
        if len(shape) != 3 or any(side % BLOCK or side < BLOCK for side in known):
            raise JobError(
                f"mill_shape takes volumes whose sides are multiples of {BLOCK}, "
                f"got {' x '.join(map(str, shape))}",
                path="view.resolution",
            )
        sides = zip("xyz", shape, strict=True)
        sizes = {name: side // BLOCK for name, side in sides if side is not None}
        return TokenSpec((stream.sized(**sizes),))

    def network(self) -> MillShapeNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.mill_shape import MillShapeNetwork

        return MillShapeNetwork(self.architecture)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or of another architecture.
        """
        import torch

        from tokenmill.tokenizers.volumes import VolumeEncoder

        with torch.device("meta"):
            network = self.network()
        self.weights.load_into(network)
        return VolumeEncoder(network, self.spec(None), dtype=self.dtype, device=device)


PLUGIN = MillShape
