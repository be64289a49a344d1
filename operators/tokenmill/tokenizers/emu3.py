"""Emu3's vision tokenizer: pictures and clips, four frames a token grid.

Wang et al.: Emu3: Next-Token Prediction is All You Need (arXiv:2409.18869),
github.com/baaivision/Emu3. The network is that of Hugging Face's transformers (extra
``diffusers``). A picture is its frame four times over; a clip is cut in groups of exactly four
frames, each encoded alone, as the authors do: in longer pieces only the first four come back well.
Ids are the nearest of 32768 codes of 4 values, one per 4 x 8 x 8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tokenmill.tokenizers.base import StreamingEncoder
from tokenmill.tokenizers.clip_grid import Frames, clip_grid
from tokenmill.tokenizers.describe import HALF, Dtype, Weights, conv_resources, identity_of
from tokenmill.tokenizers.pretrained import folder_config, folder_weights, is_folder
from tokenmill.views.base import ViewKind, ViewShape
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.emu3 import Emu3Network

OFFICIAL = "hf://BAAI/Emu3-VisionTokenizer/model.safetensors"
GROUPS = Frames(4, 4)
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
#: The authors' names of what transformers calls otherwise.
_NAMES = {
    "ch": "base_channels",
    "ch_mult": "channel_multiplier",
    "z_channels": "latent_channels",
    "double_z": "double_latent",
    "dropout": "attention_dropout",
}


@dataclass(frozen=True, slots=True)
class Emu3Config:
    """Architecture, by the names of transformers' Emu3VQVAEConfig.

    ``hidden_size`` (of the attention) 0 is ``base_channels`` times the last multiplier, the only
    size that fits. ``attn_resolutions`` are levels that have attention.
    """

    codebook_size: int = 32768
    embed_dim: int = 4
    latent_channels: int = 4
    base_channels: int = 256
    channel_multiplier: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (3,)
    hidden_size: int = 0
    num_attention_heads: int = 1
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = 4
    double_latent: bool = False
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.base_channels % 32 or self.base_channels < 32:
            text = "base_channels must be a multiple of 32 (group normalisation)"
            raise ValueError(f"{text}, got {self.base_channels}")
        fixed = (self.in_channels, self.out_channels, self.temporal_downsample_factor)
        if fixed != (3, 3, 4) or self.double_latent:
            text = "only RGB, four frames a group and single latents are known"
            raise ValueError(f"{text}, got {fixed} and double_latent = {self.double_latent}")

    @property
    def factor(self) -> int:
        """Pixels per position on each side."""
        return 1 << (len(self.channel_multiplier) - 1)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of transformers' configuration class."""
        width = self.base_channels * self.channel_multiplier[-1]
        return asdict(self) | {"hidden_size": self.hidden_size or width}


@dataclass(frozen=True, slots=True)
class Emu3:
    """Emu3's tokenizer: stream ``image`` (h, w) of pictures, ``video`` (t, h, w) of clips.

    Attributes:
        checkpoint: weights under the authors' keys or transformers' (also inside a whole Emu3
            model of transformers), or a folder with them; the authors' if empty.
        config: changes to `Emu3Config`, by transformers' names or the authors' (``ch``, ...).
        dtype: ``float32`` gives the official ids; the others are faster and flip near-ties.
    """

    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("image", "clip")

    def __post_init__(self) -> None:
        _configured(self.config)  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> Emu3Config:
        """The published one, that of the folder's config.json, and the changes of ``config``.

        Raises:
            CheckpointError: the folder has no config.json.
        """
        folder = folder_config(self.checkpoint) if is_folder(self.checkpoint) else {}
        known = set(Emu3Config.__dataclass_fields__) | set(_NAMES)
        inner = folder.get("vq_config", folder)
        return _configured({k: v for k, v in inner.items() if k in known} | self.config)

    @property
    def weights(self) -> Weights:
        """Where the weights come from.

        Raises:
            CheckpointError: the folder has none.
        """
        checkpoint = self.checkpoint or OFFICIAL
        if is_folder(checkpoint):
            checkpoint = folder_weights(checkpoint, _FILES)
        return Weights(
            checkpoint,
            select=("model.vqmodel.", "vqmodel."),
            optional=("decoder.", "post_quant_conv."),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "emu3",
            self.architecture.arguments(),
            weights=self.weights,
            dtype=self.dtype,
            normalisation=HALF,
        )

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return conv_resources(self.architecture.base_channels)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' resize of a picture; a job of clips names a view of its own."""
        return {"kind": "smart_resize"}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, shape: ViewShape | None) -> TokenSpec:
        """Return ``image`` for views ``(H, W)`` or None, ``video`` for clips ``(T, H, W)``.

        A clip of one frame has one slot of time, as a group of four.

        Raises:
            JobError: a side is not a multiple of the factor, or T not one of four.
        """
        c = self.architecture
        factors = (c.factor, c.factor)
        if shape is not None and len(shape) == 3 and shape[0] == 1:
            shape = (4, *shape[1:])
        axes = clip_grid(shape, GROUPS, factors=factors, kind="emu3")
        if shape is not None and len(shape) == 3:
            return TokenSpec((Stream("video", "index", axes, vocab_sizes=(c.codebook_size,)),))
        return TokenSpec((Stream("image", "index", axes[1:], vocab_sizes=(c.codebook_size,)),))

    def network(self) -> Emu3Network:
        """Return the network without weights, on torch's current default device.

        Raises:
            JobError: transformers is not installed.
        """
        try:
            from tokenmill.tokenizers.networks.emu3 import Emu3Network, build_emu3
        except ImportError as error:
            text = "emu3 needs transformers: pip install 'tokenmill[torch,diffusers]'"
            raise JobError(text, path="tokenizer.kind") from error
        return Emu3Network(build_emu3(self.architecture.arguments()))

    def load(self, device: str = "cpu") -> StreamingEncoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            JobError: transformers is not installed.
            CheckpointError: the file is not there, not safe to read, or not of this network.
        """
        import torch

        with torch.device("meta"):
            network = self.network()
        from tokenmill.tokenizers.networks.emu3 import Emu3Encoder, fill_emu3

        fill_emu3(network, self.weights)
        both = TokenSpec((*self.spec(None).streams, *self.spec((None, None, None)).streams))
        return Emu3Encoder(network, both, normalisation=HALF, dtype=self.dtype, device=device)


def _configured(config: Mapping[str, Any]) -> Emu3Config:
    named = {_NAMES.get(key, key): value for key, value in config.items()}
    return build(Emu3Config, named, path="tokenizer.config")


PLUGIN = Emu3
