"""Quantised meshes as sequences of ids, by three published orders, with exact inverses.

=========== ============= ============================== ======================================
variant     ids           decodes to                     takes
=========== ============= ============================== ======================================
meshxl      9 a face      the very array                 any soup
treemeshgpt 9 a step, two the set of oriented triangles  manifolds of one sense of rotation;
            steps a face                                 others have the reason ``non_manifold``
amt         3 a vertex,   the set of triangles, without  any soup
            about 4 to 5  their senses of rotation
            a face
=========== ============= ============================== ======================================

There are no weights. The view ``mesh`` with the rule of the same name normalises, quantises and
cleans as the order's authors do; the modules of `tokenmill.tokenizers.mesh_orders` say what the
streams and their special ids are, and name papers and repositories.

Rounding joins vertices, so that real meshes often are no manifolds any more: less so at 512 bins
than at 128. (TreeMeshGPT's authors try again with other random scales, up to twenty times.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from tokenmill.tokenizers.base import Tokens
from tokenmill.tokenizers.mesh_orders import amt, meshxl, treemeshgpt
from tokenmill.tokenizers.mesh_orders.common import Order, Soup
from tokenmill.views.base import ViewKind
from tokenmill.views.mesh import MAX_BINS
from tokenmill.views.quantise import Rule
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import TokenSpec

ORDERS: dict[Rule, Order] = {
    "meshxl": meshxl.ORDER,
    "treemeshgpt": treemeshgpt.ORDER,
    "amt": amt.ORDER,
}


class MeshEncoder:
    """The live orderer: one CPU; the device it is asked for does not matter."""

    def __init__(self, config: MeshSequence) -> None:
        self._config = config
        self._order = ORDERS[config.variant]
        self._types = {s.name: s.storage_dtype for s in self._order.streams(config.bins)}

    def preprocess(self, views: Sequence[Soup] | Soup) -> list[Soup]:
        """Return the views ``int32[F, 3, 3]``, stacked or of any F each, one by one.

        Raises:
            JobError: they are no meshes, or of more bins than this tokenizer's.
        """
        for soup in views:
            self._check(soup)
        return list(views)

    def _check(self, soup: Soup) -> None:
        bins = self._config.bins
        if soup.ndim != 3 or soup.shape[1:] != (3, 3) or soup.dtype.kind not in "iu":
            text = f"mesh_sequence takes integers [F, 3, 3], got {soup.dtype} {soup.shape}"
            raise JobError(text, path="view.kind")
        low, high = int(soup.min(initial=0)), int(soup.max(initial=0))
        if low < 0 or high >= bins:
            text = f"vertices lie in {low}..{high}, the tokenizer has {bins} bins; make them equal"
            raise JobError(text, path="view.bins")

    def encode(self, inputs: Sequence[Soup]) -> Tokens:
        """Return for each stream a list of the meshes' ids.

        Raises:
            AssetError: ``non_manifold``, by ``treemeshgpt`` alone.
        """
        found = [self._order.encode(soup, self._config.bins) for soup in inputs]
        return {
            name: [tokens[name].astype(dtype) for tokens in found]
            for name, dtype in self._types.items()
        }

    def decode(self, tokens: Mapping[str, Sequence[npt.NDArray[Any]]]) -> list[Soup]:
        """Return the meshes ``int32[F, 3, 3]``, see the table at the top of this module.

        Raises:
            ValueError: a sequence is not what the order gives.
        """
        rows = zip(*(tokens[name] for name in self._types), strict=True)
        bins = self._config.bins
        return [self._order.decode(dict(zip(self._types, r, strict=True)), bins) for r in rows]

    def close(self) -> None:
        """Nothing is held but memory."""


@dataclass(frozen=True, slots=True)
class MeshSequence:
    """The description of an order.

    Attributes:
        variant: the order, which is also the rule of the view.
        bins: steps along each axis, as of the view. 128 are the 7 bits that all three were
            published with; TreeMeshGPT has a model of 9 bits, 512, too.
    """

    variant: Rule = "meshxl"
    bins: int = 128

    takes: ClassVar[tuple[ViewKind, ...]] = ("mesh",)
    #: Options that must be the view's.
    of_view: ClassVar[tuple[str, ...]] = ("bins",)

    def __post_init__(self) -> None:
        if self.variant not in ORDERS:
            raise ValueError(f"variant must be one of {', '.join(ORDERS)}, got {self.variant!r}")
        if not 2 <= self.bins <= MAX_BINS:
            raise ValueError(f"bins must be 2 to {MAX_BINS}, got {self.bins}")

    @property
    def identity(self) -> dict[str, Any]:
        """The order, the version of its rules and the bins."""
        return {
            "kind": "mesh_sequence",
            "algorithm": 1,
            "variant": self.variant,
            "bins": self.bins,
        }

    @property
    def resources(self) -> Resources:
        """A CPU and memory for a mesh of a million faces; no GPU."""
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=2 * 2**30, batch_size=1)

    @property
    def default_view(self) -> dict[str, Any]:
        """The rule of the same name, at these bins."""
        return {"kind": "mesh", "rule": self.variant, "bins": self.bins}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, shape: tuple[int | None, ...] | None) -> TokenSpec:
        """Return the order's streams; their length n varies, but of MeshXL with F faces.

        Raises:
            JobError: the views are no meshes.
        """
        if shape is not None and len(shape) != 1:
            raise JobError(f"mesh_sequence takes meshes of F faces, got {shape}", path="view.kind")
        spec = TokenSpec(ORDERS[self.variant].streams(self.bins))
        faces = shape[0] if shape else None
        if self.variant != "meshxl" or faces is None:
            return spec
        return spec.sized(n=meshxl.FACE_IDS * faces)

    def load(self, device: str = "cpu") -> MeshEncoder:
        """Return the encoder. There are no weights, and the device is not used."""
        del device
        return MeshEncoder(self)


PLUGIN = MeshSequence
