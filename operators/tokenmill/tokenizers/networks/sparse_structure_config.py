"""Architecture of the sparse-structure autoencoders of TRELLIS and ShapeLLM-Omni, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources

#: Volumes at a time: convolutions at full resolution are wide.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class SparseStructureConfig:
    """Architecture, by the official names; the decoder mirrors the encoder.

    ``resolution`` is the side in cells of the volumes that the weights were trained on. Between two
    entries of ``channels`` the grid is halved. The defaults are those of the published
    ``ss_vae_conv3d_16l8``: 64 x 64 x 64 cells become 16 x 16 x 16 positions of 8 channels.
    """

    channels: tuple[int, ...] = (32, 128, 512)
    latent_channels: int = 8
    num_res_blocks: int = 2
    num_res_blocks_middle: int = 2
    resolution: int = 64

    def __post_init__(self) -> None:
        counts = (*self.channels, self.latent_channels)
        if not self.channels or min(counts) < 1:
            raise ValueError("channels and latent_channels must be positive")
        if min(self.num_res_blocks, self.num_res_blocks_middle) < 0:
            raise ValueError("numbers of blocks must not be negative")
        if self.resolution < 1 or self.resolution % self.factor:
            raise ValueError(f"resolution must be a positive multiple of {self.factor}")

    @property
    def factor(self) -> int:
        """Cells per position on each side."""
        return 1 << (len(self.channels) - 1)

    @property
    def side(self) -> int:
        """Positions of the latent grid on each side."""
        return self.resolution // self.factor

    @property
    def resources(self) -> Resources:
        """Needs of one encoder: four float32 maps at full resolution live at once."""
        maps = 4 * _BATCH * self.channels[0] * self.resolution**3 * 4
        return Resources(gpus=1.0, cpus=1.0, memory_bytes=maps + 2 * 2**30, batch_size=_BATCH)

    def check(self, shape: Any, *, kind: str) -> None:
        """Raise `JobError` unless views of ``shape`` have ``resolution`` cells on each side."""
        sides = tuple(shape) if shape is not None else ()
        if any(side not in {None, self.resolution} for side in sides) or len(sides) not in {0, 3}:
            raise JobError(
                f"{kind} takes volumes of {self.resolution} cells on each side, got "
                f"{' x '.join(map(str, sides))}",
                path="view.resolution",
            )
