"""Operators whose assets are arrays in memory, and a tokenizer whose every part is known."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

from tokenmill.tokenizers.base import Array, Pixels, Tokenizer, Tokens
from tokenmill.views.base import ViewKind, ViewOf
from tokenmill_pipelines.assemble import Operators
from tokenmill_schemas.asset import AssetRef, Modality, listing_schema
from tokenmill_schemas.errors import AssetError, Reason
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

CONTENT = pa.schema([pa.field("content", pa.string())])


@dataclass(frozen=True, slots=True)
class Memory:
    """A source, a decoder and a view in one: every asset is an array, or an error."""

    assets: Mapping[str, Array | Exception]
    gives: ViewKind = "image"
    contents: Mapping[str, str] = field(default_factory=dict)
    copies: int = 1
    shape: tuple[int, ...] | None = None

    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    facts: ClassVar[dict[str, Any]] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """A name."""
        return {"kind": "memory"}

    def companions(self) -> pa.Schema:
        """Return the class of content."""
        return CONTENT

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield all assets in one batch."""
        rows = [
            {"key": key, "uri": key, "locator": "", "modality": "image", "size_bytes": 1}
            | {"version": "", "content": self.contents.get(key)}
            for key in self.assets
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=listing_schema(CONTENT))

    def open(self, ref: AssetRef) -> BinaryIO:
        """Return a stream of the key."""
        return io.BytesIO(ref.key.encode())

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Memory:
        """Return this very thing, if the asset is no error."""
        found = self.assets[stream.read().decode()]
        if isinstance(found, Exception):
            raise found
        return self

    def columns(self) -> pa.Schema:
        """Return none."""
        return pa.schema([])

    def views(self, media: Memory, key: str) -> Iterator[ViewOf]:
        """Yield the array, as often as there are copies."""
        for _ in range(media.copies):
            yield ViewOf(np.asarray(self.assets[key]), {"view.name": "whole"})

    def close(self) -> None:
        """Hold nothing."""


def operators(memory: Memory, tokenizer: Tokenizer) -> Operators:
    """Return operators that read a memory."""
    made: Any = memory
    return Operators(made, made, made, tokenizer)


@dataclass(frozen=True, slots=True)
class Means:
    """Pictures as the means of 8 x 8 blocks: ids below 256, one for each channel.

    ``prefix`` gives them as a sequence, of which every prefix decodes; ``refuses`` names the first
    pixel of pictures that cannot be encoded.
    """

    prefix: bool = False
    refuses: int = -1
    decodes: bool = True

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    @property
    def identity(self) -> dict[str, Any]:
        """A name."""
        return {"kind": "means"}

    @property
    def resources(self) -> Resources:
        """Next to nothing."""
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=0, batch_size=4)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 32 pixels."""
        return {"kind": "center_crop", "size": 32, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """As it was asked to."""
        return self.decodes

    def spec(self, shape: Any) -> TokenSpec:
        """Return one stream ``image``."""
        if self.prefix:
            stream = Stream("image", "index", (Axis("n"),), vocab_sizes=(256,), min_prefix=1)
            return TokenSpec((stream,))
        axes = (Axis("h"), Axis("w"), Axis("depth", 3))
        return TokenSpec((Stream("image", "index", axes, vocab_sizes=(256,)),))

    def load(self, device: str = "cpu") -> Means:
        """Return this very thing, which is its encoder too."""
        del device
        return self

    def preprocess(self, pixels: Pixels) -> Pixels:
        """Return the pixels."""
        return pixels

    def encode(self, inputs: Pixels) -> Tokens:
        """Return means, rounded."""
        if (inputs[:, 0, 0, 0] == self.refuses).any():
            raise AssetError(Reason.ENCODE_FAILED, "a picture that cannot be encoded")
        count, height, width, _ = inputs.shape
        blocks = inputs.reshape(count, height // 8, 8, width // 8, 8, 3)
        means = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
        return {"image": means.reshape(count, -1) if self.prefix else means}

    def decode(self, tokens: Mapping[str, Any]) -> Pixels:
        """Return flat blocks; of a prefix the rest is grey."""
        ids = np.asarray(tokens["image"])
        if self.prefix:
            whole = np.full((len(ids), 32 // 8 * (32 // 8) * 3), 128, np.uint8)
            whole[:, : ids.shape[1]] = ids
            ids = whole.reshape(len(ids), 4, 4, 3)
        return np.asarray(ids.repeat(8, axis=1).repeat(8, axis=2), np.uint8)

    def close(self) -> None:
        """Hold nothing."""


def picture(seed: int, side: int = 32) -> Pixels:
    """Return a picture ``uint8[side, side, 3]`` with gradients and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    waves = [np.sin((x * a + y * b) / side * 6) for a, b in rng.uniform(-1, 1, (3, 2))]
    smooth = 128 + 90 * np.stack(waves, axis=-1)
    return np.clip(smooth + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)
