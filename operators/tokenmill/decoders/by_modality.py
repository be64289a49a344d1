"""Several decoders as one: each asset goes to the one of its modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from tokenmill.decoders.base import Decoder
from tokenmill_schemas.arrow import union
from tokenmill_schemas.asset import MODALITIES, AssetRef, Modality
from tokenmill_schemas.errors import AssetError, Reason


@dataclass(frozen=True, slots=True)
class ByModality:
    """Decodes each asset with the decoder of its listed modality.

    ``decoders`` has one entry per modality. Facts that only one of them has are null in the rows of
    the others.
    """

    decoders: Mapping[str, Decoder]

    @property
    def identity(self) -> dict[str, Any]:
        """The decoders' own."""
        parts = {name: decoder.identity for name, decoder in self.decoders.items()}
        return {"decoder": "by_modality", "decoders": parts}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The decoders' own."""
        return tuple(name for name in MODALITIES if name in self.decoders)

    def facts(self) -> pa.Schema:
        """Return the union of the decoders' columns."""
        return union([decoder.facts() for decoder in self.decoders.values()])

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Any:
        """Decode one asset.

        Raises:
            AssetError: ``other_modality``, or what its decoder raises.
        """
        decoder = self.decoders.get(ref.modality)
        if decoder is None:
            known = ", ".join(self.decoders)
            text = f"a {ref.modality}; this job reads {known}"
            raise AssetError(Reason.OTHER_MODALITY, text, uri=ref.uri, stage="decode")
        return decoder.decode(ref, stream)
