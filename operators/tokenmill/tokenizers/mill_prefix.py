"""Pictures as sequences of up to 128 ids of which every beginning decodes: trained here.

Finite scalar quantization (Mentzer et al., arXiv:2309.15505) of what a learned basis makes of a
coarse grid of features, with nested dropout (Rippel et al., arXiv:1402.0915), learned by
``tokenmill fit`` from the job ``mill_prefix.toml``. The weights ship, with a model card beside
them. Keep 16 to 128 ids of a picture: the more, the finer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, identity_of
from tokenmill.tokenizers.mill_weights import weights_of
from tokenmill.tokenizers.networks.mill_config import MillPrefixConfig
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.mill_prefix import MillPrefixNetwork


@dataclass(frozen=True, slots=True)
class MillPrefix:
    """A picture tokenizer of this project: one stream ``image`` of ids, the coarsest first.

    Attributes:
        checkpoint: weights in safetensors; the shipped ones if empty.
        config: changes to `tokenmill.tokenizers.networks.mill_config.MillPrefixConfig`.
        dtype: ``float32`` gives the same ids as the shipped weights' card; the others are faster
            and flip near-ties.
    """

    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> MillPrefixConfig:
        """The network's widths and depths.

        Raises:
            JobError: a key of ``config`` is wrong.
        """
        return build(MillPrefixConfig, self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return weights_of("mill_prefix", self.checkpoint)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "mill_prefix",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )

    @property
    def resources(self) -> Resources:
        """A CPU core does some hundred pictures a second; a GPU is taken if there is one."""
        return Resources(memory_bytes=2**30, batch_size=16)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of the one size that it takes, 256 pixels."""
        return {"kind": "center_crop", "size": self.architecture.side, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream ``image`` on axis ``n``, of which a prefix of 16 ids or more decodes.

        Raises:
            JobError: views are not of the size that it was trained for.
        """
        config = self.architecture
        if size != (config.side, config.side):
            got = f"{size[0]} x {size[1]}" if size else "views of several sizes"
            text = f"mill_prefix takes views of {config.side} x {config.side}, got {got}"
            raise JobError(text, path="view.size")
        axes = (Axis("n", config.count),)
        stream = Stream("image", "index", axes, (config.vocab_size,), order="prefix")
        return TokenSpec((replace(stream, min_prefix=config.min_prefix),))

    def network(self) -> MillPrefixNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.mill_prefix import MillPrefixNetwork

        return MillPrefixNetwork(self.architecture)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or of another architecture.
        """
        import torch

        from tokenmill.tokenizers.images import ImageEncoder

        with torch.device("meta"):
            network = self.network()
        self.weights.load_into(network)
        size = (self.architecture.side, self.architecture.side)
        return ImageEncoder(
            network, self.spec(size), normalisation=HALF, dtype=self.dtype, device=device
        )


PLUGIN = MillPrefix
