"""ShapeLLM-Omni's 3D VQ-VAE: 64 x 64 x 64 cells of occupancy as 1024 ids.

Ye et al.: ShapeLLM-Omni: A Native Multimodal LLM for 3D Generation and Understanding
(arXiv:2506.01853), github.com/JAMESYJL/ShapeLLM-Omni. The encoder is that of TRELLIS' sparse
structure; four latents that are neighbours along z make one vector of 32 values, and its id is the
nearest of 8192 codes. With latents on a grid of 16 x 16 x 16, id ``n`` covers ``x = n // 64``,
``y = n // 4 % 16`` and ``z = 4 * (n % 4)`` to ``z + 3``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import Dtype, Weights
from tokenmill.tokenizers.networks.sparse_structure_config import SparseStructureConfig
from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.sparse_structure import TokenVolumes

OFFICIAL = "hf://yejunliang23/3DVQVAE/3DVQVAE.bin"
#: Latents along z that share one id.
GROUP = 4


@dataclass(frozen=True, slots=True)
class ShapeLLMConfig(SparseStructureConfig):
    """`SparseStructureConfig` and the size of the codebook."""

    num_embeddings: int = 8192

    def __post_init__(self) -> None:
        SparseStructureConfig.__post_init__(self)
        if self.num_embeddings < 1:
            raise ValueError("num_embeddings must be positive")
        if self.side % GROUP:
            raise ValueError(f"resolution must be a multiple of {GROUP * self.factor}")


@dataclass(frozen=True, slots=True)
class ShapeLLMVqvae:
    """The 3D VQ-VAE of ShapeLLM-Omni: one stream ``shape`` of 1024 ids (axis ``n``).

    Attributes:
        variant: the one published architecture.
        checkpoint: the weights; the authors' if empty.
        config: changes to `ShapeLLMConfig`.
        dtype: of the convolutions between the first and the last one. The authors' code runs them
            in ``float16``; ``float32`` is closer to what the weights mean and flips near-ties.
    """

    variant: Literal["3DVQVAE"] = "3DVQVAE"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("voxels",)

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> ShapeLLMConfig:
        """The published architecture with the changes of ``config``."""
        return build(ShapeLLMConfig, self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return Weights(
            self.checkpoint or OFFICIAL, unwrap=("state_dict", "model"), optional=("Decoder.",)
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256 and dtype."""
        architecture = {k: _plain(v) for k, v in asdict(self.architecture).items()}
        known = {"kind": "shapellm_vqvae", "architecture": architecture, "dtype": self.dtype}
        return known | {"weights": self.weights.identity}

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return self.architecture.resources

    @property
    def default_view(self) -> dict[str, Any]:
        """Cells of the surface by the authors' rule: all coordinates into one range, then z up.

        They take every file for one with y up; here those that say z up stay as they are.
        """
        return {
            "kind": "voxels",
            "resolution": self.architecture.resolution,
            "normalise": "global_range",
            "up": "z",
            "assume_up": "y",
        }

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream of ids, as many for every view.

        Raises:
            JobError: ``shape`` is not that of a cube of ``resolution`` cells.
        """
        c = self.architecture
        c.check(shape, kind="shapellm_vqvae")
        axes = (Axis("n", c.side**3 // GROUP),)
        return TokenSpec((Stream("shape", "index", axes, vocab_sizes=(c.num_embeddings,)),))

    def network(self) -> TokenVolumes:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.sparse_structure import TokenVolumes

        c = self.architecture
        return TokenVolumes(c, c.num_embeddings, GROUP)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or of another architecture.
        """
        import torch

        from tokenmill.tokenizers.volumes import VolumeEncoder

        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        return VolumeEncoder(network, self.spec(None), dtype=self.dtype, device=device)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


PLUGIN = ShapeLLMVqvae
