"""Pictures as grids of ids: a small convolutional tokenizer that is trained here.

Residual convolutions around finite scalar quantization (Mentzer et al., arXiv:2309.15505), learned
by ``tokenmill fit`` from the jobs ``mill_image_f8.toml`` and ``mill_image_f16.toml``. The weights
ship, each with a model card beside them.

=======  =============  ============
variant  pixels per id  ids
=======  =============  ============
f8       8 x 8          below 64,000
f16      16 x 16        below 64,000
=======  =============  ============
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, grid, identity_of
from tokenmill.tokenizers.mill_weights import weights_of
from tokenmill.tokenizers.networks.mill_config import IMAGE_VARIANTS, MillImageConfig
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build, nearest
from tokenmill_schemas.tokens import Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.mill_image import MillImageNetwork

#: Both sides of a view are multiples of this, for all variants.
MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class MillImage:
    """A picture tokenizer of this project: one stream ``image`` of ids on a grid.

    Attributes:
        variant: one of the table above.
        checkpoint: weights in safetensors; the shipped ones if empty.
        config: changes to `tokenmill.tokenizers.networks.mill_config.MillImageConfig`.
        dtype: ``float32`` gives the same ids as the shipped weights' card; the others are faster
            and flip near-ties.
    """

    variant: str = "f8"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> MillImageConfig:
        """The variant with the changes of ``config``.

        Raises:
            JobError: there is no such variant, or a key of ``config`` is wrong.
        """
        if self.variant not in IMAGE_VARIANTS:
            text = f"is {self.variant!r}; {nearest(self.variant, list(IMAGE_VARIANTS))}"
            raise JobError(text, path="tokenizer.variant")
        variant = IMAGE_VARIANTS[self.variant]
        known = {name: getattr(variant, name) for name in MillImageConfig.__slots__}
        return build(MillImageConfig, {**known, **self.config}, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return weights_of(f"mill_image_{self.variant}", self.checkpoint)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "mill_image",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )

    @property
    def resources(self) -> Resources:
        """A CPU core does some forty pictures of 256 pixels a second; a GPU is taken if there."""
        return Resources(memory_bytes=2**30, batch_size=16)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 256 pixels."""
        return {"kind": "center_crop", "size": 256, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream ``image`` of axes h and w.

        Raises:
            JobError: a side is not a multiple of 16.
        """
        config = self.architecture
        grid(size, MULTIPLE, kind="mill_image")
        axes = grid(size, config.factor, kind="mill_image")
        return TokenSpec((Stream("image", "index", axes, vocab_sizes=(config.vocab_size,)),))

    def network(self) -> MillImageNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.mill_image import MillImageNetwork

        return MillImageNetwork(self.architecture)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or not of this variant.
        """
        import torch

        from tokenmill.tokenizers.images import ImageEncoder

        with torch.device("meta"):
            network = self.network()
        self.weights.load_into(network)
        return ImageEncoder(
            network, self.spec(None), normalisation=HALF, dtype=self.dtype, device=device
        )


PLUGIN = MillImage
