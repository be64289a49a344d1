"""Clips as grids of ids, four frames of 8x8 pixels an id: trained here.

The first frame goes alone through the network of `tokenmill.tokenizers.mill_image`, variant f8,
whose weights lie in this one's: the ids of an image, and of a clip's first frame, are the ids that
``mill_image`` gives. What follows is predictive: the ids of four frames say how blocks move and
what is new (`tokenmill.tokenizers.networks.mill_video`). Clips of any length are encoded in bounded
memory. Weights, data, scores and limits: the model card beside the weights, in
``tokenmill/tokenizers/weights``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.clip_grid import Frames, clip_grid
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, identity_of
from tokenmill.tokenizers.mill_weights import weights_of
from tokenmill.tokenizers.networks.mill_config import MillVideoConfig
from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.mill_video import MillVideoNetwork

#: Both sides of a view are multiples of this, as of mill_image.
MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class MillVideo:
    """A clip tokenizer of this project: one stream ``video`` of ids on a grid of t, h and w.

    Attributes:
        checkpoint: weights in safetensors; the shipped ones if empty.
        config: changes to `tokenmill.tokenizers.networks.mill_config.MillVideoConfig`.
        dtype: ``float32`` gives the same ids as the shipped weights' card; the others are faster
            and flip near-ties.
    """

    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("clip", "image")

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> MillVideoConfig:
        """The network's widths and depths.

        Raises:
            JobError: a key of ``config`` is wrong.
        """
        return build(MillVideoConfig, self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return weights_of("mill_video", self.checkpoint)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "mill_video",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )

    @property
    def resources(self) -> Resources:
        """Two CPU cores do some 27 frames of 256 pixels a second; a GPU is taken if there.

        Memory is for views of that size; what is searched grows with the pixels.
        """
        return Resources(memory_bytes=2**30, batch_size=2)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 256 pixels, 17 frames of it."""
        return {"kind": "clips", "size": 256, "rule": "bicubic", "frames": 17}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream ``video`` of axes t, h and w; of images t is one.

        Raises:
            JobError: a side is not a multiple of 16, or the frames are not 1 + 4k.
        """
        config = self.architecture
        frames = Frames(1, config.group)
        clip_grid(shape, frames, factors=(MULTIPLE, MULTIPLE), kind="mill_video")
        axes = clip_grid(shape, frames, factors=(config.factor, config.factor), kind="mill_video")
        return TokenSpec((Stream("video", "index", axes, vocab_sizes=(config.vocab_size,)),))

    def network(self) -> MillVideoNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.mill_video import MillVideoNetwork

        return MillVideoNetwork(self.architecture)

    @property
    def start(self) -> dict[str, Weights]:
        """What parts of a network that is to learn begin with: the picture part is ``mill_image``.

        Raises:
            CheckpointError: its weights are not there.
        """
        return {"picture": weights_of("mill_image_f8", "")}

    def load(self, device: str = "cpu") -> StreamingEncoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or of another architecture.
        """
        import torch

        from tokenmill.tokenizers.clips import CausalClipEncoder

        with torch.device("meta"):
            network = self.network()
        self.weights.load_into(network)
        return CausalClipEncoder(
            network, self.spec(None), normalisation=HALF, dtype=self.dtype, device=device
        )


PLUGIN = MillVideo
