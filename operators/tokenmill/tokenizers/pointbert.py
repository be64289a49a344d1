"""Point-BERT's discrete VAE: 1024 points as 64 ids, one for each group, and the groups' centres.

Yu et al.: Point-BERT: Pre-training 3D Point Cloud Transformers with Masked Point Modeling
(CVPR 2022), github.com/Julie-tang00/Point-BERT. Groups are the 32 nearest points of 64 centres,
which farthest-point sampling finds from the first point on; ids are the greatest of 8192 logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.tokenizers.base import Tokens
from tokenmill.tokenizers.describe import Weights
from tokenmill.tokenizers.networks.pointbert_config import PointBertConfig, grouped
from tokenmill.views.base import ViewKind
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.strict import build
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

if TYPE_CHECKING:
    from torch import Tensor

    from tokenmill.tokenizers.networks.pointbert import PointDvae

Floats = npt.NDArray[np.float32]

#: What only decoding needs.
DECODER = ("codebook", "dgcnn_2.", "decoder.")


@dataclass(frozen=True, slots=True)
class PointBert:
    """Point-BERT's discrete VAE: streams ``shape`` (ids) and ``centers`` (x, y, z of each group).

    Attributes:
        variant: the one published architecture.
        checkpoint: the weights, as the authors' training saves them; their own have no public
            address that a program could use, so this must be given.
        config: changes to `PointBertConfig`.
    """

    variant: Literal["dvae"] = "dvae"
    checkpoint: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    takes: ClassVar[tuple[ViewKind, ...]] = ("points",)

    def __post_init__(self) -> None:
        _ = self.architecture  # an unknown key is an error at once, not when an actor loads

    @property
    def architecture(self) -> PointBertConfig:
        """The published architecture with the changes of ``config``."""
        return build(PointBertConfig, self.config, path="tokenizer.config")

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return Weights(
            self.checkpoint, unwrap=("base_model", "state_dict", "model"), optional=DECODER
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights' sha256, and the rule by which groups are found."""
        known = {"kind": "pointbert", "architecture": asdict(self.architecture), "grouping": 1}
        return known | {"dtype": "float32", "weights": self.weights.identity}

    @property
    def resources(self) -> Resources:
        """What one encoder needs."""
        return Resources(gpus=1.0, cpus=1.0, memory_bytes=2 * 2**30, batch_size=32)

    @property
    def default_view(self) -> dict[str, Any]:
        """1024 points of the surface, their mean in the origin, in the unit sphere."""
        return {
            "kind": "points",
            "count": 1024,
            "measured": "points",
            "normalise": "centroid_radius",
            "extent": 2.0,
        }

    @property
    def can_decode(self) -> bool:
        """Always, unless the checkpoint was stripped of its decoder."""
        return True

    def spec(self, shape: Any) -> TokenSpec:
        """Return the ids and the centres, aligned, as many for every view.

        Raises:
            JobError: clouds of ``shape`` have fewer points than groups, or than a group has.
        """
        c = self.architecture
        count = shape[0] if shape is not None else None
        if count is not None and count < c.least_points:
            text = f"pointbert takes clouds of at least {c.least_points} points, got {count}"
            raise JobError(text, path="view.count")
        axes = (Axis("n", c.num_group),)
        ids = Stream("shape", "index", axes, vocab_sizes=(c.num_tokens,), order="unordered")
        centers = Stream(
            *("centers", "float", axes),
            channels=3,
            dtype="float32",
            order="unordered",
            aligned_with="shape",
        )
        return TokenSpec((ids, centers))

    def network(self) -> PointDvae:
        """Return the network without weights, on torch's current default device."""
        from tokenmill.tokenizers.networks.pointbert import PointDvae

        return PointDvae(self.architecture)

    def load(self, device: str = "cpu") -> PointEncoder:
        """Build the network, load its weights and put it on ``device``.

        Raises:
            CheckpointError: the file is not there, not safe to read, or of another architecture.
        """
        import torch

        with torch.device("meta"):
            network = self.network()
        if self.weights.load_into(network).absent:
            network.drop_decoder()
        return PointEncoder(network, self, device)


class PointEncoder:
    """The live encoder (see `tokenmill.tokenizers.base.Encoder`)."""

    def __init__(self, network: PointDvae, tokenizer: PointBert, device: str) -> None:
        self.network: Any = network.eval().requires_grad_(False).to(device)
        self.spec = tokenizer.spec(None)
        self.device = device
        self._tokenizer = tokenizer
        self._config = tokenizer.architecture

    def preprocess(self, clouds: Floats) -> tuple[Tensor, Tensor]:
        """Return neighbourhoods and centres of ``float32[B, N, 3 or 6]`` on the device.

        Raises:
            JobError: there are fewer points than groups, or than a group has.
        """
        import torch

        self._tokenizer.spec(clouds.shape[1:2])
        pairs = [grouped(np.ascontiguousarray(cloud[:, :3]), self._config) for cloud in clouds]
        groups, centers = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return groups.to(self.device), centers.to(self.device)

    def encode(self, inputs: tuple[Tensor, Tensor]) -> Tokens:
        """Return ``shape``: ids ``[B, G]``, and ``centers``: ``float32[B, G, 3]``."""
        import torch

        from tokenmill.tokenizers.images import to_host

        groups, centers = inputs
        with torch.inference_mode():
            ids = self.network.ids(groups, centers)
        found = {"shape": ids, "centers": centers}
        return {name: to_host(value, self.spec[name]) for name, value in found.items()}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Floats:
        """Return clouds ``float32[B, groups * points of a group, 3]``.

        Raises:
            JobError: the checkpoint has no decoder.
        """
        import torch

        from tokenmill.tokenizers.images import from_host

        given = {k: from_host(v, self.spec[k]).to(self.device) for k, v in tokens.items()}
        with torch.inference_mode():
            clouds: Floats = self.network.clouds(given["shape"], given["centers"]).cpu().numpy()
        return clouds

    def codebook(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``shape``: the decoder's codes ``float32[K, D]``, if the checkpoint has them."""
        from tokenmill.tokenizers.quantize import code_vectors

        codes = self.network.codebook
        return {} if codes is None else {"shape": code_vectors(codes)}

    def close(self) -> None:
        """Free the device's memory."""
        self.network = None
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


PLUGIN = PointBert
