"""VidTok with finite scalar quantization: clips, and images as clips of one frame.

Tang et al.: VidTok: A Versatile and Open-Source Video Tokenizer (arXiv:2412.13061),
github.com/microsoft/VidTok.

======================  ===============  ===========================  ==========================
variant                 pixels per id    frames                       ids
======================  ===============  ===========================  ==========================
488-4096, -32768,       8 x 8            1 + 4k, four per position    below 4096, 32768, 262144
-262144
41616-262144            16 x 16          1 + 4k                       below 262144
noncausal-488-262144,   8 x 8, 16 x 16   4k                           below 262144
noncausal-41616-262144
v1.1-488-32768          8 x 8            1 + 4k                       below 32768
v1.1-888-32768          8 x 8            1 + 8k, eight per position   below 32768
v1.1-41616-262144       16 x 16          1 + 4k                       below 262144
======================  ===============  ===========================  ==========================

The causal variants, v1.0 and v1.1 alike, encode a clip of any length in parts, with what their
layers keep of the part before: memory is bounded, and the ids are those of the whole clip. Other
lengths than those above are padded in front by the authors, by a number of frames that only the
length of the whole clip tells; they are refused here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.clip_grid import clip_grid
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, identity_of
from tokenmill.tokenizers.networks.vidtok_config import (
    VARIANTS,
    VidTokConfig,
    official_checkpoint,
)
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build, nearest
from tokenmill_schemas.tokens import Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.vidtok import VidTokNetwork


@dataclass(frozen=True, slots=True)
class VidTok:
    """A VidTok tokenizer: one stream ``video`` of ids on a grid of time, rows and columns.

    Attributes:
        variant: one of the table above.
        checkpoint: the weights, a Lightning checkpoint as published or its state dict in
            safetensors; the authors' own if empty.
        config: changes to `tokenmill.tokenizers.networks.vidtok_config.VidTokConfig`.
        dtype: ``float32`` gives the official ids; the others are faster and flip near-ties.
    """

    variant: str = "v1.1-488-32768"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> VidTokConfig:
        """The variant with the changes of ``config``.

        Raises:
            JobError: there is no such variant, or a key of ``config`` is wrong.
        """
        if self.variant not in VARIANTS:
            text = f"is {self.variant!r}; {nearest(self.variant, list(VARIANTS))}"
            raise JobError(text, path="tokenizer.variant")
        known = {**VARIANTS[self.variant], **self.config}
        return build(VidTokConfig, known, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from; those of the training loss beside them are left out."""
        return Weights(
            self.checkpoint or official_checkpoint(self.variant),
            unwrap=("state_dict",),
            optional=("decoder.",),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "vidtok",
            self.architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )

    @property
    def takes(self) -> tuple[ViewKind, ...]:
        """Clips, and by the causal variants images, which are their first position."""
        return ("clip", "image") if self.architecture.causal else ("clip",)

    @property
    def resources(self) -> Resources:
        """What two clips of 256 x 256 need: seven maps of all channels for one part of either."""
        part_bytes = 8 * 256 * 256 * self.architecture.ch * 4
        return Resources(memory_bytes=2**30 + 2 * 7 * part_bytes, batch_size=2)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' clips: short side to 256, centre crop, as many frames as in training.

        Every frame is taken; the authors thin out videos of 45 frames a second and more.
        """
        config = self.architecture
        step = config.time_factor
        return {
            "kind": "clips",
            "size": 256,
            "rule": "bilinear",
            "frames": {"zeros": 17, "first": 33, "both": 16}[config.time_padding],
            "frames_rule": f"1+{step}k" if config.causal else f"{step}k",
        }

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream of ids on a grid, of one position in time for images.

        Raises:
            JobError: the length or a side of ``shape`` does not fit the variant.
        """
        config, kind = self.architecture, f"vidtok {self.variant}"
        axes = clip_grid(shape, config.frames, factors=(config.factor, config.factor), kind=kind)
        return TokenSpec((Stream("video", "index", axes, vocab_sizes=(config.vocab_size,)),))

    def network(self) -> VidTokNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.vidtok import VidTokNetwork

        return VidTokNetwork(self.architecture)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        The encoder of a causal variant is a `tokenmill.tokenizers.base.StreamingEncoder`.

        Raises:
            CheckpointError: the file is not there, not safe to read, or not of this variant.
        """
        import torch

        from tokenmill.tokenizers.clips import ClipEncoder
        from tokenmill.tokenizers.networks.vidtok_stream import CausalEncoder

        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        encoder = CausalEncoder if self.architecture.causal else ClipEncoder
        return encoder(
            network, self.spec(None), normalisation=HALF, dtype=self.dtype, device=device
        )


PLUGIN = VidTok
