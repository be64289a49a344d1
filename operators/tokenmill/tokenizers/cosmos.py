"""NVIDIA's Cosmos tokenizers: pictures and causal videos, as ids or as latents.

NVIDIA: Cosmos World Foundation Model Platform for Physical AI (arXiv:2501.03575),
github.com/NVIDIA/Cosmos-Tokenizer. Ids come from finite scalar quantization with 64,000 codes. A
clip is encoded whole, however long; the authors' command line cuts it into windows of 17 frames
that know nothing of each other, which here is a view of 17 frames.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.clip_grid import clip_grid
from tokenmill.tokenizers.describe import SIGNED, Dtype, Weights, grid, identity_of
from tokenmill.tokenizers.locate import PATH, RANDOM, local_file
from tokenmill.tokenizers.networks.cosmos_config import CosmosConfig, official
from tokenmill.tokenizers.pretrained import folder_weights, is_folder
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Latent, Stream, TokenSpec

if TYPE_CHECKING:
    from torch import Tensor

    from tokenmill.tokenizers.networks.cosmos_image import CosmosImage
    from tokenmill.tokenizers.networks.cosmos_video import CosmosVideo

Variant = Literal[
    "DV4x8x8", "DV8x8x8", "DV8x16x16", "DI8x8", "DI16x16",
    "CV4x8x8", "CV8x8x8", "CV8x16x16", "CI8x8", "CI16x16",
]  # fmt: skip
_TORCHSCRIPT = ".jit"
#: The whole model, or its two halves.
_WHOLE, _HALVES = "autoencoder.jit", ("encoder.jit", "decoder.jit")
_OPTIONAL = ("decoder.", "post_quant_conv.")


@dataclass(frozen=True, slots=True)
class Cosmos:
    """A Cosmos tokenizer: one stream, ``image`` on a grid h, w or ``video`` on a grid t, h, w.

    Attributes:
        variant: an official model: D for ids or C for latents (channels last), I for images or V
            for videos and images (clips of one frame), then frames and pixels per position.
        checkpoint: the weights: TorchScript files (read without running their code), plain state
            dicts, or a folder with ``autoencoder.jit`` or with ``encoder.jit`` and, for decoding,
            ``decoder.jit``; NVIDIA's if empty.
        config: changes to `CosmosConfig`.
        dtype: ``float32`` is exact. The authors run theirs in bfloat16, whose ids differ near ties
            and from device to device; here ``bfloat16`` means mixed precision.
        latent_dtype: the type in which latents are stored.
        scale: what a generator multiplies the latents with, one or one per channel; recorded in the
            stream, not applied.
        shift: what it subtracts first.
        trust: load a TorchScript file that holds more than tensors and lists through torch itself.
    """

    variant: Variant = "DV4x8x8"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"
    latent_dtype: Dtype = "float32"
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    trust: bool = False

    def __post_init__(self) -> None:
        width = self.architecture.embedding_dim
        for name in ("scale", "shift"):
            given = len(getattr(self, name))
            if given not in {1, width}:
                raise JobError(f"needs 1 or {width} entries, got {given}", path=f"tokenizer.{name}")

    @property
    def architecture(self) -> CosmosConfig:
        """The variant with the changes of ``config``."""
        return build(
            CosmosConfig, {**asdict(official(self.variant)), **self.config}, path="tokenizer.config"
        )

    @property
    def takes(self) -> tuple[ViewKind, ...]:
        """Images, and clips where it is a video tokenizer."""
        return ("clip", "image") if self.architecture.video else ("image",)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the weights files.

        Raises:
            CheckpointError: the folder has none of them.
            TransientError: a remote place did not answer.
        """
        given = self.checkpoint or f"hf://nvidia/Cosmos-0.1-Tokenizer-{self.variant}"
        if given.endswith(_TORCHSCRIPT) or not is_folder(given):
            return (given,)
        first = folder_weights(given, (_WHOLE, _HALVES[0]))
        if first.endswith(_WHOLE):
            return (first,)
        try:
            return first, folder_weights(given, _HALVES[1:])
        except CheckpointError:
            return (first,)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, the files' sha256, dtype and normalisation; of latents their type."""
        first, *more = (Weights(name) for name in self.files)
        identity = identity_of(
            "cosmos",
            self.architecture,
            weights=first,
            dtype=self.dtype,
            normalisation=SIGNED,
        )
        if more:
            identity["decoder_weights"] = more[0].identity
        return (
            identity
            if self.architecture.discrete
            else identity | {"latent_dtype": self.latent_dtype}
        )

    @property
    def resources(self) -> Resources:
        """What one encoder needs for 17 frames, or pictures, of 256 x 256.

        About eight maps of the widest level live at once, at a quarter of the sides.
        """
        c = self.architecture
        batch_size, frames = (4, 5) if c.video else (16, 1)
        side = 256 // c.patch_size
        maps = 8 * batch_size * frames * max(c.widths) * side * side * 4
        return Resources(gpus=1.0, cpus=1.0, memory_bytes=maps + 2**30, batch_size=batch_size)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' window of frames, or a centre crop."""
        if not self.architecture.video:
            return {"kind": "center_crop", "rule": "adm", "size": 256}
        return {"kind": "clips", "rule": "adm", "size": 256, "frames": 17}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint holds the encoder alone."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream on a grid: ids, or the latent's channels last.

        Raises:
            JobError: a side of ``shape`` is not a multiple of the factor, or the frames are not
                one and a multiple of theirs.
        """
        c = self.architecture
        axes: tuple[Any, ...]
        if c.video:
            factors = (c.spatial_compression, c.spatial_compression)
            axes = clip_grid(shape, c.frames, factors=factors, kind="cosmos")
        else:
            axes = grid(shape, c.spatial_compression, kind="cosmos")
        name = "video" if c.video else "image"
        if c.discrete:
            return TokenSpec((Stream(name, "index", axes, vocab_sizes=(c.codes,)),))
        latent = Latent("mean", self.scale, self.shift)
        stream = Stream(
            name, "float", axes, channels=c.embedding_dim, dtype=self.latent_dtype, latent=latent
        )
        return TokenSpec((stream,))

    def network(self) -> CosmosImage | CosmosVideo:
        """Return the network without weights, on torch's current default device."""
        if self.architecture.video:
            from tokenmill.tokenizers.networks.cosmos_video import CosmosVideo

            return CosmosVideo(self.architecture)
        from tokenmill.tokenizers.networks.cosmos_image import CosmosImage

        return CosmosImage(self.architecture)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Videos have a `tokenmill.tokenizers.base.StreamingEncoder`. What it remembers of a clip is
        bounded but for the keys and values of the attention over time: with the official sizes
        4 KiB per position of every slot.

        Raises:
            CheckpointError: a file is not there, not safe to read, or not of this variant.
        """
        import torch

        from tokenmill.tokenizers.clips import CausalClipEncoder
        from tokenmill.tokenizers.images import ImageEncoder

        with torch.device("meta"):
            network: Any = self.network()
        self._fill(network)
        kind = CausalClipEncoder if self.architecture.video else ImageEncoder
        return kind(network, self.spec(None), normalisation=SIGNED, dtype=self.dtype, device=device)

    def _fill(self, network: CosmosImage | CosmosVideo) -> None:
        from tokenmill.tokenizers.checkpoints import assign, fill_random

        files = self.files
        if files[0].startswith(RANDOM):
            fill_random(network, files[0])
            return
        weights: dict[str, Tensor] = {}
        for name in files:
            weights |= self._read(name)
        try:
            done = assign(network, weights, optional=_OPTIONAL)
        except CheckpointError as error:
            raise CheckpointError(f"{', '.join(files)}: {error}", path=PATH) from error
        if done.absent:
            network.drop_decoder()

    def _read(self, name: str) -> dict[str, Tensor]:
        from tokenmill.tokenizers.checkpoints import load_weights
        from tokenmill.tokenizers.torchscript import is_torchscript, read_torchscript

        path = local_file(name)
        if is_torchscript(path):
            return read_torchscript(path, name, trust=self.trust)
        return load_weights(name, unwrap=("state_dict", "model"), select=("network.",))


PLUGIN = Cosmos
