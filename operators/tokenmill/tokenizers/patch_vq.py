"""A small vector quantizer of RGB patches and tubes: exact, quick on a CPU, weights shipped.

A patch of 8 x 8 pixels (a tube of 4 frames of them) is projected on a few integer basis vectors
(low DCT frequencies of luma and chroma), the nearest code of a table is its id. Vector quantization
of picture blocks is as in Gersho and Gray, "Vector Quantization and Signal Compression" (1992); the
decoder is a linear estimate of a patch from its own code and those of its eight neighbours (of a
tube, from those and the tubes before and after), which takes most of the block edges away.

Ids are the same on every machine by construction. Basis, codes and projections are integers, and
all sums of an assignment stay below 2^24 in any order of summation (checked when weights are
loaded), so float32 matrix products are exact whatever the BLAS does. Distances are then integers
too, and of equally near codes the lowest id wins. The decoder sums integers below 2^53 in float64.

Weights (safetensors, made by ``python -m tokenmill_pipelines.fit.codebooks.patch_vq``, of tubes by
``...codebooks.patch_vq_video``), with V = 192 values of a patch or 768 of a tube:

========== =========== =========================================================================
basis      int16 D,V   projection of a patch (frame, row, column, channel; minus 128), times 2^12
codes      int16 K,D   code book in the projected space
synthesis  int16 F,V   from a patch's code and its neighbours' first M features, times 2^14
========== =========== =========================================================================

with ``F = D + 8 M``, neighbours in raster order; of tubes ``F = D + 10 M``, the two others last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.tokenizers.clip_grid import Frames, clip_grid
from tokenmill.tokenizers.group_stream import GroupStream
from tokenmill.tokenizers.locate import PATH, file_digest, local_file
from tokenmill.tokenizers.patch_vq_codebook import (
    FRAMES,
    PATCH,
    Codebook,
    Floats,
    load_codebook,
    to_patches,
    to_tubes,
)
from tokenmill.views.base import ViewKind, ViewShape
from tokenmill_schemas.errors import CheckpointError, JobError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

_FOLDER = Path(__file__).parent / "weights"
WEIGHTS = _FOLDER / "patch_vq.safetensors"
VIDEO_WEIGHTS = _FOLDER / "patch_vq_video.safetensors"
VARIANTS = ("image", "video")
GROUPS = Frames(FRAMES, FRAMES)


class PatchEncoder:
    """The live quantizer: numpy on one CPU; the device it is asked for does not matter."""

    def __init__(self, book: Codebook) -> None:
        self._book = book

    def preprocess(self, pixels: Pixels) -> Floats:
        """Return patches ``float32[B, H/8, W/8, 192]`` of ``uint8[B, H, W, 3]``, minus 128."""
        _check_size((pixels.shape[1], pixels.shape[2]))
        return to_patches(pixels)

    def encode(self, inputs: Floats) -> Tokens:
        """Return ``image``: the ids ``[B, H/8, W/8]``."""
        return {"image": self._book.assign(inputs).astype(_dtype(self._book))}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Return ``uint8[B, H, W, 3]`` of the ids in ``image``."""
        return self._book.synthesize(tokens["image"])

    def codebook(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``image``: the codes ``float32[K, D]``, features of patches."""
        return {"image": self._book.codes.astype(np.float32)}

    def close(self) -> None:
        """Nothing is held but memory."""


class TubeEncoder:
    """The live quantizer of clips, in numpy as `PatchEncoder`; a `StreamingEncoder`."""

    def __init__(self, book: Codebook) -> None:
        self._book = book

    def preprocess(self, clips: Pixels) -> Pixels:
        """Return the clips ``uint8[B, T, H, W, 3]`` as they are; of one frame, four times over.

        Raises:
            ValueError: T is neither 1 nor a multiple of four.
            JobError: a side is not a multiple of eight.
        """
        _check_size((clips.shape[2], clips.shape[3]))
        if clips.shape[1] == 1:
            return np.repeat(clips, FRAMES, axis=1)
        GROUPS.slots(clips.shape[1])
        return clips

    def encode(self, inputs: Pixels) -> Tokens:
        """Return ``video``: the ids ``[B, T/4, H/8, W/8]``; tubes are made a group at a time."""
        ids = [self._ids(clip) for clip in inputs]
        return {"video": np.stack(ids).astype(_dtype(self._book))}

    def _ids(self, clip: Pixels) -> npt.NDArray[np.int64]:
        groups = (clip[None, start : start + FRAMES] for start in range(0, len(clip), FRAMES))
        return np.concatenate([self._book.assign(to_tubes(group))[0] for group in groups])

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Return ``uint8[B, T, H, W, 3]`` of the ids in ``video``."""
        return np.concatenate([self._book.synthesize(ids[None]) for ids in tokens["video"]])

    def open_stream(self) -> GroupStream:
        """Return a stream for one clip: every group of four frames stands alone."""
        return GroupStream(self, frames=FRAMES)

    def codebook(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``video``: the codes ``float32[K, D]``, features of tubes."""
        return {"video": self._book.codes.astype(np.float32)}

    def close(self) -> None:
        """Nothing is held but memory."""


def _dtype(book: Codebook) -> str:
    return _spec(book).streams[0].storage_dtype


def _spec(book: Codebook) -> TokenSpec:
    axes = (Axis("h"), Axis("w"))
    codes = (len(book.codes),)
    if book.is_video:
        return TokenSpec((Stream("video", "index", (Axis("t"), *axes), vocab_sizes=codes),))
    return TokenSpec((Stream("image", "index", axes, vocab_sizes=codes),))


def _check_size(size: tuple[int, int]) -> None:
    if size[0] % PATCH or size[1] % PATCH or min(size) < PATCH:
        raise JobError(
            f"patch_vq takes views whose sides are multiples of {PATCH}, got {size[0]}x{size[1]}",
            path="view.size",
        )


@dataclass(frozen=True, slots=True)
class PatchVQ:
    """The description of a patch quantizer.

    Attributes:
        checkpoint: a codebook of this variant; "" is the shipped one.
        variant: ``image`` takes pictures, ``video`` clips of a multiple of four frames, and of one
            frame, which is taken as four.
    """

    checkpoint: str = ""
    variant: Literal["image", "video"] = "image"

    @property
    def takes(self) -> tuple[ViewKind, ...]:
        """Images or clips, by the variant."""
        return ("clip",) if self.variant == "video" else ("image",)

    @property
    def identity(self) -> dict[str, Any]:
        """The algorithm's version and the weights' sha256 (which also tell images from clips)."""
        return {"kind": "patch_vq", "algorithm": 1, "weights_sha256": file_digest(self._path())}

    @property
    def resources(self) -> Resources:
        """A CPU and little memory; no GPU."""
        batch_size = 8 if self.variant == "video" else 32
        return Resources(gpus=0.0, cpus=1.0, memory_bytes=512 * 2**20, batch_size=batch_size)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 256 pixels; of clips, 16 frames of it."""
        if self.variant == "video":
            return {"kind": "clips", "size": 256, "rule": "bicubic", "frames": 16}
        return {"kind": "center_crop", "size": 256, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """Always."""
        return True

    def spec(self, shape: ViewShape | None) -> TokenSpec:
        """Return ``image`` of axes h and w, an id per 8 x 8 pixels; or ``video`` of t, h and w.

        Raises:
            JobError: a side is not a multiple of 8, or the frames are not one of 4.
            CheckpointError: see `load_codebook`.
        """
        stream = _spec(self._book())["video" if self.variant == "video" else "image"]
        if shape is None:
            return TokenSpec((stream,))
        if None not in shape[-2:]:
            _check_size((shape[-2] or 0, shape[-1] or 0))
        if shape[0] == 1 and self.variant == "video":
            shape = (FRAMES, *shape[1:])
        axes = clip_grid(shape, GROUPS, factors=(PATCH, PATCH), kind="patch_vq")
        sizes = {axis.name: axis.size for axis in axes[-len(stream.axes) :] if axis.size}
        return TokenSpec((stream.sized(**sizes),))

    def load(self, device: str = "cpu") -> PatchEncoder | TubeEncoder:
        """Read and check the weights. The device is not used.

        A CPU core does 120 pictures, or 450 frames of clips, a second at 256 pixels.

        Raises:
            CheckpointError: see `load_codebook`.
        """
        del device
        book = self._book()
        return TubeEncoder(book) if self.variant == "video" else PatchEncoder(book)

    def _book(self) -> Codebook:
        book = load_codebook(self._path())
        if book.is_video != (self.variant == "video"):
            has = "video" if book.is_video else "image"
            text = f"{self._path()} is a codebook of variant {has!r}"
            raise CheckpointError(text, path=PATH)
        return book

    def _path(self) -> Path:
        shipped = VIDEO_WEIGHTS if self.variant == "video" else WEIGHTS
        return local_file(self.checkpoint) if self.checkpoint else shipped


PLUGIN = PatchVQ
