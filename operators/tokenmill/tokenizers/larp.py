"""LARP: 16 frames of 128 x 128 as 1024 ids in the order that a generator learns best.

Wang et al.: LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior
(arXiv:2410.21264), github.com/hywang66/LARP. Checkpoints: a folder with config.json and
model.safetensors as on the hub (``hf://hywang66/LARP-L-long-tokenizer``), one such weights file, or
a checkpoint of the authors' training code. The generative prior beside the tokenizer is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import UNIT, Dtype, Weights, identity_of
from tokenmill.tokenizers.networks.larp_config import LarpConfig, flat_config
from tokenmill.tokenizers.pretrained import folder_config, folder_weights, is_folder
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.larp import LarpNetwork

OFFICIAL = "hf://hywang66/LARP-L-long-tokenizer"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: Prefixes of everything that only decoding needs, which a checkpoint may lack.
_DECODING = ("decoder", "final_layer.", "bottleneck.out_linear.")


@dataclass(frozen=True, slots=True)
class Larp:
    """A LARP tokenizer: one stream ``video`` of ids in the order of its learned queries.

    An id is the likeliest one; the authors' code draws one also in evaluation unless it is told
    not to. Their transformer blocks are timm's, of no fixed version, whose layer normalisation had
    ``norm_eps`` 1e-5 when LARP was trained and has 1e-6 since timm 1.0.16. The default is what
    their code computes today; values before quantization move by a thousandth of their deviation.

    Attributes:
        variant: ``L-long``, or "" to take the architecture from the checkpoint folder's
            config.json.
        checkpoint: a model folder or a weights file (see the module), or ``random:SEED``; the
            authors' folder if empty.
        config: changes to `tokenmill.tokenizers.networks.larp_config.LarpConfig`.
        dtype: type that the network computes in; the quantizer always has float32.
    """

    variant: Literal["L-long", ""] = "L-long"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("clip",)

    def __post_init__(self) -> None:
        if self.variant or not is_folder(self._source):
            _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> LarpConfig:
        """The variant, or else the folder's config.json, with the changes of ``config``.

        Raises:
            JobError: a key of ``config`` is wrong, or there is neither variant nor folder.
            CheckpointError: the folder has no config.json, or one of another network.
        """
        if not self.variant and not is_folder(self._source):
            raise JobError("name 'L-long', or a checkpoint folder", path="tokenizer.variant")
        known = {} if self.variant else flat_config(folder_config(self._source))
        return build(LarpConfig, {**known, **self.config}, path="tokenizer.config")

    @property
    def _source(self) -> str:
        return self.checkpoint or OFFICIAL

    @property
    def weights(self) -> Weights:
        """Where the weights come from.

        Raises:
            CheckpointError: the folder has no weights, or its config.json is of another variant.
        """
        if not is_folder(self._source):
            return Weights(self._source, unwrap=("model.sd",), optional=_DECODING)
        if self.variant:
            _check_same(self.architecture, flat_config(folder_config(self._source)))
        return Weights(folder_weights(self._source, _WEIGHTS), optional=_DECODING)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, dtype and normalisation."""
        return identity_of(
            "larp", self.architecture, weights=self.weights, dtype=self.dtype, normalisation=UNIT
        )

    @property
    def resources(self) -> Resources:
        """Twice the float32 weights, and room for a batch of activations."""
        c = self.architecture
        weights = 12 * (
            c.encoder_depth * c.encoder_hidden_size**2 + c.decoder_depth * c.decoder_hidden_size**2
        )
        return Resources(memory_bytes=2**30 + 8 * weights, batch_size=8)

    @property
    def default_view(self) -> dict[str, Any]:
        """The authors' clips: short side to 128, centre crop, every frame; short ones filled up."""
        size, frames = self.architecture.input_size, self.architecture.frame_num
        options = {"size": size, "rule": "bilinear", "frames": frames, "short": "repeat_last"}
        return {"kind": "clips", **options}

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream ``video`` on axis ``n``.

        Raises:
            JobError: the views are not clips of the one shape that the network was trained for.
        """
        c = self.architecture
        wanted = (c.frame_num, c.input_size, c.input_size)
        if shape is None or tuple(shape) != wanted:
            got = " x ".join(map(str, shape)) if shape else "clips of several shapes"
            length, side, _ = wanted
            text = f"larp takes clips of exactly {length} frames of {side} x {side}, got {got}"
            raise JobError(text, path="view")
        axes = (Axis("n", c.bottleneck_token_num),)
        return TokenSpec((Stream("video", "index", axes, (c.codebook_size,), order="sequence"),))

    def network(self) -> LarpNetwork:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.larp import LarpNetwork

        return LarpNetwork(self.architecture)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: keys are missing or of other shapes, or it is of another variant.
        """
        import torch

        from tokenmill.tokenizers.clips import ClipEncoder

        c = self.architecture
        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        spec = self.spec((c.frame_num, c.input_size, c.input_size))
        return ClipEncoder(network, spec, normalisation=UNIT, dtype=self.dtype, device=device)


def _check_same(ours: LarpConfig, official: Mapping[str, Any]) -> None:
    other = [key for key, value in official.items() if value != getattr(ours, key)]
    if other:
        listed = ", ".join(f"{key} = {official[key]!r}" for key in other)
        text = f"config.json is of another LARP: it has {listed}; give variant = ''"
        raise CheckpointError(text, path="tokenizer.variant")


PLUGIN = Larp
