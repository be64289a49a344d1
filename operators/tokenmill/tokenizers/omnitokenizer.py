"""OmniTokenizer: one transformer for pictures and for videos.

Wang, Jiang, Yuan, Peng, Wu, Jiang: OmniTokenizer: A Joint Image-Video Tokenizer for Visual
Generation (NeurIPS 2024, arXiv:2406.09399), github.com/FoundationVision/OmniTokenizer. A clip has
one and a multiple of four frames and is encoded whole: its positional convolution reaches across
frames in an order that no part of a clip has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.clip_grid import Frames, clip_grid
from tokenmill.tokenizers.describe import Dtype, Normalisation, Weights, identity_of
from tokenmill.tokenizers.locate import RANDOM, local_file
from tokenmill.tokenizers.networks.omnitokenizer_config import Attention, OmniConfig, settings_of
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Latent, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.omnitokenizer import OmniNetwork

Variant = Literal[
    "imagenet_only", "celebahq", "ffhq", "imagenet_ucf", "imagenet_k600", "imagenet_mit",
    "imagenet_sthv2", "celebahq_ucf", "celebahq_k600", "ffhq_ucf", "ffhq_k600",
    "imagenet_ucf_vae", "imagenet_k600_vae",
]  # fmt: skip
_PICTURES = {"temporal_patch_size": 2, "spatial_pos": "rel"}
_VAE = {"use_vae": True}
#: What the authors' commands say of a model; a checkpoint's own settings go before it.
VARIANTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("imagenet_only", "celebahq", "ffhq"), _PICTURES),
    "imagenet_ucf": {},
    "imagenet_k600": {},
    "imagenet_mit": {},
    "imagenet_sthv2": {},
    "celebahq_ucf": {},
    "celebahq_k600": {},
    "ffhq_ucf": {},
    "ffhq_k600": {},
    **dict.fromkeys(("imagenet_ucf_vae", "imagenet_k600_vae"), _VAE),
}
#: Input in [-0.5, 0.5].
CENTERED = Normalisation(mean=(0.5,), std=(1.0,))


@dataclass(frozen=True, slots=True)
class OmniTokenizer:
    """An OmniTokenizer model: one stream ``video`` on a grid t, h, w (t = 1 for images).

    Attributes:
        variant: an official model. Those of pictures alone (``imagenet_only``, ``celebahq``,
            ``ffhq``) have two frames per slot; ``*_vae`` give float latents (channels last).
        checkpoint: the weights: the authors' Lightning file, whose own settings decide the
            architecture, or a state dict; the variant's official file if empty.
        config: changes to `OmniConfig`.
        attention: the branch of the official code. ``sdpa`` is what it runs on torch 2.1 and
            later, and gives the official ids there; ``einsum`` adds the biases by distance that
            this leaves out. ``imagenet_only`` was trained with them, so its authors name
            ``einsum`` for its published quality.
        dtype: ``float32`` gives the official ids; the others are faster and flip near-ties.
        posterior: store the Gaussian's mean, or mean and log-variance (twice the channels).
        latent_dtype: the type in which float latents are stored.
    """

    variant: Variant = "imagenet_k600"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    attention: Attention = "sdpa"
    dtype: Dtype = "float32"
    posterior: Literal["mean", "mean_logvar"] = "mean"
    latent_dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("clip", "image")

    def __post_init__(self) -> None:
        self._build({})  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> OmniConfig:
        """The variant, with the checkpoint's own settings, with the changes of ``config``.

        Raises:
            CheckpointError: there is no such file, or it is of an unknown architecture.
            TransientError: a remote place did not answer.
        """
        name = self.weights.checkpoint
        if name.startswith(RANDOM) or name.endswith(".safetensors"):
            return self._build({})
        return self._build(settings_of(local_file(name), name))

    def _build(self, settings: dict[str, Any]) -> OmniConfig:
        variant = VARIANTS[self.variant]
        given = {**variant, **settings, **self.config, "attention": self.attention}
        return build(OmniConfig, given, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return Weights(
            self.checkpoint or f"hf://Daniel0724/OmniTokenizer/{self.variant}.ckpt",
            unwrap=("state_dict",),
            optional=("decoder.", "post_vq_conv."),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype, normalisation, and what of a Gaussian is kept."""
        architecture = self.architecture
        identity = identity_of(
            "omnitokenizer",
            architecture,
            weights=self.weights,
            dtype=self.dtype,
            normalisation=CENTERED,
        )
        if not architecture.use_vae:
            return identity
        return identity | {"posterior": self.posterior, "latent_dtype": self.latent_dtype}

    @property
    def resources(self) -> Resources:
        """What one encoder needs: clips of 17 frames of 256 x 256 take about 300 MiB each."""
        return Resources(gpus=1.0, cpus=1.0, memory_bytes=3 * 2**30, batch_size=4)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' clips: short side to 256 without antialiasing, centre crop, 17 frames."""
        return {"kind": "clips", "rule": "taming", "size": 256, "frames": 17}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream on a grid: ids, or the latent's channels last.

        Raises:
            JobError: views are not square, their sides are no multiple of a patch (or window), or
                the frames are not one and a multiple of a patch's.
        """
        c = self.architecture
        axes = clip_grid(
            shape,
            Frames(1, c.temporal_patch_size),
            factors=(c.patch_size, c.patch_size),
            kind="omnitokenizer",
            square=True,
        )
        side = None if shape is None else shape[-1]
        if side is not None and side % c.side_multiple:
            text = f"omnitokenizer takes sides that are multiples of {c.side_multiple}, got {side}"
            raise JobError(text, path="view.size")
        if not c.use_vae:
            return TokenSpec((Stream("video", "index", axes, vocab_sizes=(c.n_codes,)),))
        count = 2 if self.posterior == "mean_logvar" else 1
        stream = Stream(
            "video",
            "float",
            axes,
            channels=count * c.codebook_dim,
            dtype=self.latent_dtype,
            latent=Latent(self.posterior),
        )
        return TokenSpec((stream,))

    def network(self) -> OmniNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.omnitokenizer import OmniNetwork

        return OmniNetwork(self.architecture, with_logvar=self.posterior == "mean_logvar")

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or not of this variant.
        """
        import torch

        from tokenmill.tokenizers.clips import ClipEncoder

        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        return ClipEncoder(
            network, self.spec(None), normalisation=CENTERED, dtype=self.dtype, device=device
        )


PLUGIN = OmniTokenizer
