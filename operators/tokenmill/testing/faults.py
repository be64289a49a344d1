"""Operators that break on purpose, for tests of what must survive it; named in jobs by path.

    [source]
    kind = "tokenmill.testing.faults:NoisePictures"
    [decoder]
    kind = "tokenmill.testing.faults:FaultyDecoder"
    faults = { picture-0007 = "segfault" }

A fault is never part of an identity: a store made in spite of it must equal one made without.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders.base import DecodeLimits, Picture
from tokenmill.decoders.image import ImageDecoder
from tokenmill.testing.pictures import encoded, noise
from tokenmill.tokenizers.base import Pixels, Tokens
from tokenmill.views.base import ViewKind
from tokenmill_schemas.asset import ASSET_NAMES, AssetRef, Modality, listing_schema
from tokenmill_schemas.errors import CheckpointError, JobError, TransientError
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

#: What a store holds, apart from when and by whom it was made.
CONTENT = ("codebooks", "data", "manifest", "plans", "quarantine")

FaultName = Literal[
    "exit",
    "kill",
    "segfault",
    "abort",
    "hang",
    "freeze",
    "error",
    "memory",
    "hoard",
    "gulp",
    "transient",
]

#: Longer than any deadline of a test; not for ever, so that no test leaves a thread for good.
HANG_S = 60.0
#: What a fault allocates where nothing limits it, so that no test eats up its machine.
MOST_BYTES = 2**30


class OutOfMemoryError(RuntimeError):
    """Stands for torch's error of the same name."""


def content_of(store: str | Path) -> dict[str, str]:
    """Return the sha256 of every file that a local store's content consists of, by its path."""
    root = Path(store)
    files = sorted(file for name in CONTENT for file in (root / name).rglob("*") if file.is_file())
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def _die_by(number: signal.Signals) -> NoReturn:
    os.kill(os.getpid(), number)
    raise SystemExit  # not reached: the signal ends the process


def _raise(error: Exception) -> NoReturn:
    raise error


def _freeze() -> None:
    """Hang inside C code that keeps the interpreter's lock, so that no other thread can run."""
    ctypes.PyDLL(None).sleep(int(HANG_S))


def _hoard(step_bytes: int) -> NoReturn:
    """Fill memory, in steps or at once, up to `MOST_BYTES`."""
    held = [np.ones(step_bytes, np.uint8) for _ in range(MOST_BYTES // step_bytes)]
    raise RuntimeError(f"nothing kept it from taking {sum(array.nbytes for array in held)} bytes")


FAULTS: dict[FaultName, Callable[[], Any]] = {
    "exit": lambda: os._exit(1),
    "kill": lambda: _die_by(signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),  # in this thread; a signal may go to any
    "abort": os.abort,
    "hang": lambda: time.sleep(HANG_S),
    "freeze": _freeze,
    "error": lambda: _raise(RuntimeError(f"a bug, in {object()!r}")),
    "memory": lambda: _raise(MemoryError("no room")),
    "hoard": lambda: _hoard(MOST_BYTES // 64),
    "gulp": lambda: _hoard(MOST_BYTES),
    "transient": lambda: _raise(TransientError("come back later")),
}


@dataclass(frozen=True, slots=True)
class Trigger:
    """When which fault happens: at the keys of ``faults``, once each if ``once`` is a folder."""

    faults: Mapping[str, FaultName]
    once: str = ""

    def __call__(self, key: str) -> None:
        """Let the fault of ``key`` happen, if it has one."""
        if key not in self.faults:
            return
        if self.once:
            try:
                Path(self.once, key.replace("/", "-")).touch(exist_ok=False)
            except FileExistsError:
                return
        FAULTS[self.faults[key]]()


@dataclass(frozen=True, slots=True)
class NoisePictures:
    """``count`` small PNGs of noise, made when they are opened.

    Attributes:
        count: how many; the keys are ``picture-0000`` and so on, from ``start``.
        sides: sides in pixels, taken in turn.
        repeated: keys that are listed a second time, at the end.
        faults: what happens when a key is opened.
        open_s: time that each opening takes.
    """

    count: int
    sides: tuple[int, ...] = (32,)
    repeated: tuple[str, ...] = ()
    faults: dict[str, FaultName] = field(default_factory=dict)
    once: str = ""
    open_s: float = 0.0
    start: int = 0

    def companions(self) -> pa.Schema:
        """Return one column, ``number``."""
        return pa.schema([pa.field("number", pa.int64())])

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield all keys in order."""
        numbers = list(range(self.start, self.start + self.count))
        numbers += [int(key.split("-")[1]) for key in self.repeated]
        if not numbers:
            return
        keys = [f"picture-{number:04d}" for number in numbers]
        rows = (keys, keys, [""] * len(keys), ["image"] * len(keys), [-1] * len(keys), keys)
        columns = dict(zip(ASSET_NAMES, rows, strict=True)) | {"number": numbers}
        yield pa.RecordBatch.from_pydict(columns, schema=listing_schema(self.companions()))

    def open(self, ref: AssetRef) -> BinaryIO:
        """Return a PNG of the side that is this number's turn."""
        time.sleep(self.open_s)
        Trigger(self.faults, self.once)(ref.key)
        number = int(ref.key.split("-")[1])
        side = self.sides[number % len(self.sides)]
        return io.BytesIO(encoded(noise(size=(side, side), seed=number), "PNG"))


@dataclass(frozen=True, slots=True)
class FaultyDecoder:
    """The picture decoder, with faults at some keys; ``pids`` is a folder to leave process ids."""

    faults: dict[str, FaultName] = field(default_factory=dict)
    once: str = ""
    pids: str = ""
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the picture decoder."""
        return ImageDecoder().identity

    def facts(self) -> pa.Schema:
        """Return the picture decoder's facts."""
        return ImageDecoder().facts()

    def decode(self, ref: AssetRef, stream: BinaryIO) -> Picture:
        """Decode a picture, unless a fault is due."""
        if self.pids:
            Path(self.pids, str(os.getpid())).touch()
        Trigger(self.faults, self.once)(ref.key)
        return ImageDecoder(limits=self.limits).decode(ref, stream)


@dataclass(frozen=True, slots=True)
class BlockMeans:
    """A tokenizer without weights: the means of 8x8 blocks, and as many ids as the first says.

    Attributes:
        gpus: what it asks for.
        fits: views that fit into memory at once, 0 for any number.
        refuse: numbers of views (`view_number`) that cannot be encoded.
        refuse_all: no view at all can be encoded.
        loses: return a sample less than there were views.
        loads: False if its checkpoint is broken.
        devices: a folder in which each encoder notes its visible GPUs and its device.
        peers: encoders that have to note theirs before any of them goes on.
    """

    gpus: float = 0.0
    fits: int = 0
    refuse: tuple[int, ...] = ()
    refuse_all: bool = False
    loses: bool = False
    loads: bool = True
    devices: str = ""
    peers: int = 0

    takes: ClassVar[tuple[ViewKind, ...]] = ("image",)

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"kind": "block_means"}

    @property
    def resources(self) -> Resources:
        """Batches of eight."""
        return Resources(gpus=self.gpus, cpus=1.0, memory_bytes=0, batch_size=8)

    @property
    def default_view(self) -> dict[str, Any]:
        """A centre crop of 32 pixels."""
        return {"kind": "center_crop", "size": 32, "rule": "bicubic"}

    @property
    def can_decode(self) -> bool:
        """It cannot."""
        return False

    def spec(self, size: tuple[int, int] | None) -> TokenSpec:
        """Return a grid stream and one of varying length."""
        grid = Stream("image", "index", (Axis("h"), Axis("w")), vocab_sizes=(256,))
        run = Stream("run", "index", (Axis("n"),), vocab_sizes=(256,))
        spec = TokenSpec((grid, run))
        return spec if size is None else spec.sized(h=size[0] // 8, w=size[1] // 8)

    def load(self, device: str = "cpu") -> BlockMeansEncoder:
        """Return the encoder, whose ``device`` says where it was to be put.

        Raises:
            CheckpointError: ``loads`` is False.
        """
        if not self.loads:
            raise CheckpointError("its checkpoint lacks keys: means.weight", path="tokenizer")
        if self.devices:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
            Path(self.devices, str(os.getpid())).write_text(f"{visible} {device}")
            deadline = time.monotonic() + HANG_S
            while _files(self.devices) < self.peers and time.monotonic() < deadline:
                time.sleep(0.05)
        return BlockMeansEncoder(self, device)


def _files(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def view_number(view: npt.NDArray[Any]) -> int:
    """Return a number that tells a view ``uint8[H, W, 3]`` from others: its CRC-32."""
    return zlib.crc32(np.ascontiguousarray(view).data)


class BlockMeansEncoder:
    """The live side of `BlockMeans`; ``batches`` has the sizes of all calls of `encode`."""

    def __init__(self, config: BlockMeans, device: str) -> None:
        self._config = config
        self.device = device
        self.batches: list[int] = []

    def preprocess(self, pixels: Pixels) -> Pixels:
        """Return the pixels as they are."""
        return pixels

    def encode(self, inputs: Pixels) -> Tokens:
        """Return ``image`` ``[B, h, w]`` and ``run``, an object array of B arrays."""
        config, count = self._config, len(inputs)
        self.batches.append(count)
        if config.fits and count > config.fits:
            raise OutOfMemoryError(f"{count} views do not fit")
        if config.refuse_all or any(view_number(view) in config.refuse for view in inputs):
            raise RuntimeError("a view that cannot be encoded")
        rows, columns = inputs.shape[1] // 8, inputs.shape[2] // 8
        blocks = inputs[:, : rows * 8, : columns * 8].reshape(count, rows, 8, columns, 8, 3)
        means = blocks.mean(axis=(2, 4, 5)).astype(np.uint8)
        runs = np.empty(count, dtype=object)
        for index, grid in enumerate(means):
            runs[index] = grid.ravel()[: int(grid[0, 0]) % 4]
        kept = count - config.loses
        return {"image": means[:kept], "run": runs[:kept]}

    def decode(self, tokens: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """Raise: there is no decoder.

        Raises:
            JobError: always.
        """
        raise JobError(f"block means of {sorted(tokens)} cannot be decoded", path="tokenizer")

    def close(self) -> None:
        """Hold nothing."""
