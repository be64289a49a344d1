"""MaskGIT's VQGAN: 1024 codes on a grid of 16 x 16 pixels each, the tokens of MaskGIT and RAR.

Chang et al.: MaskGIT (CVPR 2022); Yu et al.: Randomized Autoregressive Visual Generation
(arXiv:2411.00776), github.com/bytedance/1d-tokenizer, whose PyTorch weights are the ones meant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import (
    UNIT,
    Dtype,
    Weights,
    conv_resources,
    grid,
    identity_of,
)
from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.conv_maskgit import MaskGITAutoencoder


@dataclass(frozen=True, slots=True)
class MaskGITConfig:
    """Architecture, by the official names."""

    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    hidden_channels: int = 128
    num_res_blocks: int = 2
    z_channels: int = 256
    num_embeddings: int = 1024

    def __post_init__(self) -> None:
        if self.hidden_channels % 32 or self.hidden_channels < 32:
            raise ValueError(
                f"hidden_channels must be a multiple of 32, got {self.hidden_channels}"
            )
        if not self.channel_mult:
            raise ValueError("channel_mult needs at least one level")

    @property
    def factor(self) -> int:
        """Pixels per position on each side."""
        return 1 << (len(self.channel_mult) - 1)


@dataclass(frozen=True, slots=True)
class MaskGITVQGAN:
    """MaskGIT's VQGAN: one stream ``image`` of ids on a grid.

    Attributes:
        variant: ``imagenet-f16``, the one that was published.
        checkpoint: the weights (``maskgit-vqgan-imagenet-f16-256.bin``).
        config: changes to `MaskGITConfig`.
        dtype: ``float32`` gives the official ids; the others are faster and flip near-ties.
    """

    variant: Literal["imagenet-f16"] = "imagenet-f16"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> MaskGITConfig:
        """The variant with the changes of ``config``."""
        return build(MaskGITConfig, self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return Weights(self.checkpoint, unwrap=("state_dict", "model"), optional=("decoder.",))

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "maskgit_vqgan",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=UNIT,
        )

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return conv_resources(self.architecture.hidden_channels)

    @property
    def default_view(self) -> dict[str, Any]:
        """The crop of RAR's pre-tokenization."""
        return {"kind": "center_crop", "rule": "adm", "size": 256}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return one stream of ids on a grid.

        Raises:
            JobError: a side of ``size`` is not a multiple of the factor.
        """
        axes = grid(size, self.architecture.factor, kind="maskgit_vqgan")
        sizes = (self.architecture.num_embeddings,)
        return TokenSpec((Stream("image", "index", axes, vocab_sizes=sizes),))

    def network(self) -> MaskGITAutoencoder:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.conv_maskgit import MaskGITAutoencoder, MaskGITSizes

        c = self.architecture
        widths = tuple(c.hidden_channels * factor for factor in c.channel_mult)
        sizes = MaskGITSizes(widths, c.num_res_blocks, c.z_channels)
        return MaskGITAutoencoder(sizes, codes=c.num_embeddings)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or not of this network.
        """
        import torch

        from tokenmill.tokenizers.images import ImageEncoder

        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        return ImageEncoder(
            network, self.spec(None), normalisation=UNIT, dtype=self.dtype, device=device
        )


PLUGIN = MaskGITVQGAN
