"""Token specs: what the tokens of a store are, so exactly that a trainer can size its tables.

A `TokenSpec` is a tuple of `Stream`. One stream is one named sequence per sample. Axes are written
slowest first; a sample's array has one dimension per axis (``float`` streams have a last one of
``channels``; ``bits`` streams hold one unsigned 0/1 value per bit in a last one of ``width_bits``).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["index", "bits", "float"]
Order = Literal["raster", "coarse_to_fine", "prefix", "reversed", "unordered", "sequence"]
Parameters = Literal["sample", "mean", "mean_logvar"]

#: ``t h w`` of pictures and clips, ``x y z`` of volumes, ``n`` of sequences and sets.
AXES = ("t", "h", "w", "x", "y", "z", "n", "level", "depth", "coord")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a stream; ``size`` None means that it varies from sample to sample."""

    name: str
    size: int | None = None

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise ValueError(f"axis {self.name!r} is not one of {', '.join(AXES)}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"axis {self.name} has size {self.size}; it must be positive")


@dataclass(frozen=True, slots=True)
class Latent:
    """How a float stream becomes the model's latent: ``(value - shift) * scale``, per channel.

    ``parameters`` says what is stored: the posterior's mean, mean and log-variance (concatenated
    on the channel axis), or a sample. ``scale`` and ``shift`` have one entry, or one per channel.
    """

    parameters: Parameters = "mean"
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class Stream:
    """One named sequence of tokens in a sample.

    ``vocab_sizes`` has one entry for all positions, or one per entry of the last axis (product
    codes whose books differ). ``levels`` lists the grid of every scale of a pyramid, coarse to
    fine, all flattened into one ``n`` axis. ``min_prefix`` is the shortest prefix that decodes (0:
    only whole sequences do). ``aligned_with`` names a stream with the same positions.
    """

    name: str
    kind: Kind
    axes: tuple[Axis, ...]
    vocab_sizes: tuple[int, ...] = ()
    width_bits: int = 0
    channels: int = 0
    dtype: str = ""
    order: Order = "raster"
    levels: tuple[tuple[int, ...], ...] = ()
    min_prefix: int = 0
    special_ids: tuple[tuple[str, int], ...] = ()
    aligned_with: str = ""
    latent: Latent | None = None

    def __post_init__(self) -> None:
        _CHECKS[self.kind](self)
        if not self.axes:
            raise ValueError(f"stream {self.name!r} needs at least one axis")

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Sizes of all dimensions of one sample's array; None where they vary."""
        tail = {"index": (), "bits": (self.width_bits,), "float": (self.channels,)}[self.kind]
        return (*(axis.size for axis in self.axes), *tail)

    @property
    def is_fixed(self) -> bool:
        """Whether every sample has the same shape."""
        return None not in self.shape

    @property
    def positions(self) -> int | None:
        """Number of positions of one sample (bits and channels not counted), if fixed."""
        sizes = [axis.size for axis in self.axes]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @property
    def bits_per_token(self) -> int:
        """Bits that one position needs when packed."""
        if self.kind == "index":
            return max(1, (max(self.vocab_sizes) - 1).bit_length())
        if self.kind == "bits":
            return self.width_bits
        return self.channels * FLOAT_BITS[self.dtype]

    @property
    def storage_dtype(self) -> str:
        """Narrowest numpy type of one stored value; bfloat16 is kept as its uint16 bits."""
        if self.kind == "float":
            return "uint16" if self.dtype == "bfloat16" else self.dtype
        if self.kind == "bits":
            return "uint8"
        return next(t for t, top in UNSIGNED.items() if max(self.vocab_sizes) <= top)

    def sized(self, **sizes: int) -> Stream:
        """Return this stream with the named axes fixed."""
        axes = tuple(Axis(a.name, sizes.get(a.name, a.size)) for a in self.axes)
        return replace(self, axes=axes)


UNSIGNED = {"uint8": 2**8, "uint16": 2**16, "uint32": 2**32, "uint64": 2**64}
FLOAT_BITS = {"float16": 16, "bfloat16": 16, "float32": 32}


def _check_index(stream: Stream) -> None:
    last = stream.axes[-1].size if stream.axes else None
    if len(stream.vocab_sizes) not in {1, last} or min(stream.vocab_sizes, default=0) < 1:
        raise ValueError(
            f"stream {stream.name!r}: vocab_sizes {stream.vocab_sizes} must be one positive size, "
            f"or one for each of the {last} entries of the last axis"
        )


def _check_bits(stream: Stream) -> None:
    if stream.width_bits < 1:
        raise ValueError(f"stream {stream.name!r}: width_bits must be positive")


def _check_float(stream: Stream) -> None:
    if stream.channels < 1 or stream.dtype not in FLOAT_BITS:
        raise ValueError(
            f"stream {stream.name!r}: needs channels > 0 and a dtype of {', '.join(FLOAT_BITS)}, "
            f"got {stream.channels} and {stream.dtype!r}"
        )


_CHECKS = {"index": _check_index, "bits": _check_bits, "float": _check_float}


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """What one sample of a store holds; a group of plain columns has no streams."""

    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        if len(set(names)) != len(names):
            raise ValueError(f"stream names must be distinct, got {names}")
        for stream in self.streams:
            if stream.aligned_with and stream.aligned_with not in names:
                raise ValueError(f"{stream.name!r} is aligned with unknown {stream.aligned_with!r}")

    def __getitem__(self, name: str) -> Stream:
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(f"no stream {name!r}; there are {[s.name for s in self.streams]}")

    def sized(self, **sizes: int) -> TokenSpec:
        """Return this spec with the named axes fixed in every stream that has them."""
        return TokenSpec(tuple(stream.sized(**sizes) for stream in self.streams))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value from which `spec_from_json` makes an equal spec."""
        return {"streams": [_plain(asdict(stream)) for stream in self.streams]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _stream_from_json(value: dict[str, Any]) -> Stream:
    fields = {key: _tuples(entry) for key, entry in value.items()}
    fields["axes"] = tuple(Axis(**axis) for axis in value["axes"])
    if value["latent"] is not None:
        fields["latent"] = Latent(**{k: _tuples(v) for k, v in value["latent"].items()})
    return Stream(**fields)


def spec_from_json(value: dict[str, Any]) -> TokenSpec:
    """Return the spec that `TokenSpec.to_json` wrote."""
    return TokenSpec(tuple(_stream_from_json(stream) for stream in value["streams"]))
