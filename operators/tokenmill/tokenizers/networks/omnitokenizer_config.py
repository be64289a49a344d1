"""Sizes of OmniTokenizer's networks, and the settings inside its checkpoints; without torch."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tokenmill_schemas.errors import CheckpointError

Attention = Literal["sdpa", "einsum"]


@dataclass(frozen=True, slots=True)
class OmniConfig:
    """Architecture, by the names of the official command line; defaults are those of the models.

    Attributes:
        patch_size: pixels per position down and across.
        temporal_patch_size: frames per position of time after the first frame.
        embedding_dim: width of the transformers.
        enc_block: a letter per spatial layer of the encoder: ``t`` attends to the whole frame,
            ``w`` within windows.
        dec_block: the same of the decoder.
        temporal_depth: layers that attend over time, of each.
        twod_window_size: positions per side of a window.
        spatial_pos: positions in ``t`` layers: rotary, or a bias by distance (which only
            ``attention = "einsum"`` adds).
        causal_in_temporal_transformer: attention over time looks back only.
        causal_in_peg: so does the positional convolution.
        dim_head: width of a head.
        heads: of every attention.
        ff_mult: width of the feed-forward layers.
        n_codes: ids.
        codebook_dim: entries of a code, or channels of a latent.
        l2_code: vectors are put on the unit sphere before the search.
        use_vae: a Gaussian instead of codes.
        attention: which branch of the official code: torch's fused attention, which leaves out both
            biases, or the older one that adds them.
    """

    patch_size: int = 8
    temporal_patch_size: int = 4
    embedding_dim: int = 512
    enc_block: str = "ttww"
    dec_block: str = "tttt"
    temporal_depth: int = 4
    twod_window_size: int = 8
    spatial_pos: Literal["rope", "rel"] = "rope"
    causal_in_temporal_transformer: bool = True
    causal_in_peg: bool = True
    dim_head: int = 64
    heads: int = 8
    ff_mult: float = 4.0
    n_codes: int = 8192
    codebook_dim: int = 8
    l2_code: bool = True
    use_vae: bool = False
    attention: Attention = "sdpa"

    def __post_init__(self) -> None:
        for name in ("enc_block", "dec_block"):
            if not set(getattr(self, name)) <= {"t", "w"}:
                raise ValueError(
                    f"{name} may have the letters t and w, got {getattr(self, name)!r}"
                )
        if "w" in self.enc_block + self.dec_block and self.embedding_dim % self.heads:
            raise ValueError(f"embedding_dim must be a multiple of {self.heads} heads")
        if self.spatial_pos == "rope" and self.dim_head % 4:
            raise ValueError(f"dim_head must be a multiple of 4 (rotary), got {self.dim_head}")

    @property
    def side_multiple(self) -> int:
        """The sides of a view are multiples of so many pixels: whole patches, or whole windows."""
        windows = "w" in self.enc_block + self.dec_block
        return self.patch_size * (self.twod_window_size if windows else 1)


#: What the official class takes for a setting that an older file lacks.
_LACKING: dict[str, Any] = {"spatial_pos": "rel", "twod_window_size": 4, "use_vae": False}
#: Settings that would need layers which no published model has.
_REFUSED = {
    "patch_embed": "linear",
    "use_external_codebook": False,
    "defer_temporal_pool": False,
    "defer_spatial_pool": False,
    "gen_upscale": None,
    "image_channels": 3,
}


def settings_of(path: Path, name: str) -> dict[str, Any]:
    """Return the architecture that a Lightning checkpoint says it has, as keys of `OmniConfig`.

    Empty for a file that says nothing. Nothing in the file runs: all objects in it but plain values
    and argparse's namespaces are skipped.

    Raises:
        CheckpointError: it is damaged, or of an architecture that no published model has.
    """
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            found = [n for n in archive.namelist() if n.partition("/")[2] == "data.pkl"]
            if not found:
                return {}
            with archive.open(found[0]) as file:
                value = _Settings(file).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, ValueError,
            TypeError, AttributeError, OverflowError, MemoryError) as error:  # fmt: skip
        raise CheckpointError(f"{name} is not a whole torch file: {error}") from error
    given = value.get("hyper_parameters") if isinstance(value, dict) else None
    if isinstance(given, Mapping):
        given = given.get("args", given)
    return _known(dict(given), name) if isinstance(given, Mapping) else {}


def _known(given: dict[str, Any], name: str) -> dict[str, Any]:
    # Older files spell it "casual_in_temporal_transformer".
    given = {key.replace("casual", "causal"): value for key, value in given.items()}
    for key, expected in _REFUSED.items():
        if given.get(key, expected) != expected:
            text = f"{name} has {key} = {given[key]!r}; only {expected!r} is known"
            raise CheckpointError(text)
    depth = "t" * int(given.get("spatial_depth", 4))
    given = {**_LACKING, "enc_block": depth, "dec_block": depth, **given}
    known = {field.name for field in fields(OmniConfig)} - {"attention"}
    return {key: given[key] for key in sorted(known & set(given))}


class _Namespace(dict[str, Any]):
    """An argparse namespace as a dict."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


class _Skipped:
    """Stands for any other object: takes whatever it is given and keeps nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _Skipped:
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _value: object) -> None: ...

    def extend(self, _values: object) -> None: ...


class _Settings(pickle.Unpickler):
    """Reads the plain values of a pickle; no class of it but namespaces is known, none runs."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("argparse", "Namespace"):
            return _Namespace
        return dict if (module, name) == ("collections", "OrderedDict") else _Skipped

    def persistent_load(self, _pid: Any, /) -> None:
        """Leave the tensors' values alone."""
