"""TRELLIS' sparse-structure VAE: 64 x 64 x 64 cells of occupancy as 16 x 16 x 16 latents.

Xiang et al.: Structured 3D Latents for Scalable and Versatile 3D Generation (CVPR 2025),
github.com/microsoft/TRELLIS. Their generator of structures is trained on these latents as they
are, without a scale or shift.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenmill.tokenizers.base import Encoder
from tokenmill.tokenizers.describe import Dtype, Weights
from tokenmill.tokenizers.locate import PATH, RANDOM, UnreachableError, local_file
from tokenmill.tokenizers.networks.sparse_structure_config import SparseStructureConfig
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Latent, Stream, TokenSpec

if TYPE_CHECKING:
    from tokenmill.tokenizers.networks.sparse_structure import LatentVolumes

log = logging.getLogger(__name__)

OFFICIAL = "hf://microsoft/TRELLIS-image-large/ckpts/ss_enc_conv3d_16l8_fp16.safetensors"
_CONFIG, _WEIGHTS = ".json", ".safetensors"
#: Arguments of the official classes that have one value here, or that say nothing of values.
_FIXED = {"in_channels": 1, "out_channels": 1, "norm_type": "layer"}
_IGNORED = {"use_fp16"}


@dataclass(frozen=True, slots=True)
class TrellisSS:
    """TRELLIS' sparse-structure VAE: one float stream ``shape`` on axes x, y, z, channels last.

    Attributes:
        variant: the one published architecture.
        checkpoint: the encoder: weights, or the ``.json`` that lies beside a ``.safetensors`` of
            the same name as the authors save them (its arguments are then the architecture); the
            authors' if empty.
        decoder: the decoder's weights, a file of its own. If empty, the encoder's name with
            ``ss_dec`` for ``ss_enc``; where no such file is, nothing can be decoded.
        config: changes to `SparseStructureConfig`.
        posterior: store the Gaussian's mean, or mean and log-variance (twice the channels).
        latent_dtype: the type in which latents are stored.
        dtype: of the convolutions between the first and the last one; the authors' code runs them
            in ``float16``.
    """

    variant: Literal["conv3d_16l8"] = "conv3d_16l8"
    checkpoint: str = ""
    decoder: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    posterior: Literal["mean", "mean_logvar"] = "mean"
    latent_dtype: Dtype = "float32"
    dtype: Dtype = "float32"

    takes: ClassVar[tuple[ViewKind, ...]] = ("voxels",)

    def __post_init__(self) -> None:
        # An unknown key is an error at once, not when an actor loads.
        build(SparseStructureConfig, self.config, path="tokenizer.config")

    @property
    def architecture(self) -> SparseStructureConfig:
        """The published architecture, or that of the checkpoint's JSON, with ``config``.

        Raises:
            CheckpointError: there is no such JSON file, or it is of another class.
        """
        saved = _arguments(self.checkpoint) if self.checkpoint.endswith(_CONFIG) else {}
        return build(SparseStructureConfig, saved | self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the encoder's weights come from."""
        return _weights(self.checkpoint or OFFICIAL)

    @property
    def decoder_weights(self) -> Weights | None:
        """Where the decoder's weights may be, by the names alone."""
        if self.decoder:
            return _weights(self.decoder)
        encoder = self.weights.checkpoint
        if encoder.startswith(RANDOM):
            return self.weights
        folder, slash, name = encoder.rpartition("/")
        twin = name.replace("ss_enc", "ss_dec")
        return _weights(folder + slash + twin) if twin != name else None

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, the encoder's sha256, dtype, and what of the Gaussian is stored."""
        architecture = {
            k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.architecture).items()
        }
        known = {"kind": "trellis_ss", "architecture": architecture, "dtype": self.dtype}
        stored = {"posterior": self.posterior, "latent_dtype": self.latent_dtype}
        return known | stored | {"weights": self.weights.identity}

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return self.architecture.resources

    @property
    def default_view(self) -> dict[str, Any]:
        """Cells of the surface, the object's longest side filling the cube, z up.

        The authors prepare objects in Blender, which takes OBJ files for ones with y up; set
        ``assume_up`` to "y" for a corpus of those.
        """
        resolution = self.architecture.resolution
        return {
            "kind": "voxels",
            "resolution": resolution,
            "normalise": "longest_side",
            "up": "z",
        }

    @property
    def can_decode(self) -> bool:
        """Whether the decoder's weights have a name; they may still not be there."""
        return self.decoder_weights is not None

    def spec(self, shape: Any) -> TokenSpec:
        """Return one float stream, of one shape for every view.

        Raises:
            JobError: ``shape`` is not that of a cube of ``resolution`` cells.
        """
        c = self.architecture
        c.check(shape, kind="trellis_ss")
        channels = c.latent_channels * (2 if self.posterior == "mean_logvar" else 1)
        stream = Stream(
            "shape",
            "float",
            tuple(Axis(name, c.side) for name in "xyz"),
            channels=channels,
            dtype=self.latent_dtype,
            latent=Latent(self.posterior),
        )
        return TokenSpec((stream,))

    def network(self, *, decoder: bool = True) -> LatentVolumes:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks import sparse_structure as parts

        config = self.architecture
        half = parts.Decoder(config) if decoder else None
        return parts.LatentVolumes(parts.Encoder(config), half, posterior=self.posterior)

    def load(self, device: str = "cpu") -> Encoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: a file is not there (but for a decoder that was only guessed), not
                safe to read, or of another architecture.
        """
        import torch

        from tokenmill.tokenizers.volumes import VolumeEncoder

        decoder = self._decoder_there()
        with torch.device("meta"):
            network = self.network(decoder=decoder is not None)
        self.weights.load_into(network.encoder)
        if network.decoder is not None and decoder is not None:
            decoder.load_into(network.decoder)
        return VolumeEncoder(network, self.spec(None), dtype=self.dtype, device=device)

    def _decoder_there(self) -> Weights | None:
        weights = self.decoder_weights
        if weights is None or self.decoder or weights.checkpoint.startswith(RANDOM):
            return weights
        try:
            local_file(weights.checkpoint)
        except UnreachableError:
            raise
        except CheckpointError as error:
            log.info("encoding only, without a decoder: %s", error)
            return None
        return weights


def _weights(checkpoint: str) -> Weights:
    if checkpoint.endswith(_CONFIG):
        checkpoint = checkpoint.removesuffix(_CONFIG) + _WEIGHTS
    return Weights(checkpoint, unwrap=("state_dict", "model"))


def _arguments(name: str) -> dict[str, Any]:
    """Return the constructor arguments of a model's JSON file that are fields of our config."""
    try:
        saved = json.loads(local_file(name).read_bytes())
        arguments = dict(saved["args"])
    except (ValueError, KeyError, TypeError) as error:
        text = f"{name} is no TRELLIS model file: it must be JSON with a name and args"
        raise CheckpointError(text, path=PATH) from error
    for key, only in _FIXED.items():
        if arguments.pop(key, only) != only:
            raise JobError(f"{name}: {key} must be {only!r}", path=PATH)
    return {key: value for key, value in arguments.items() if key not in _IGNORED}


PLUGIN = TrellisSS
