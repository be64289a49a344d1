"""Weights out of TorchScript files, read without running anything that is in them.

A TorchScript file is a zip archive: ``data.pkl`` pickles the module as objects with attributes,
``data/N`` hold the bytes of its tensors, ``code/`` the program. Of these only the first two are
read, and the pickle may name nothing but tensors, lists, and the program's own classes, which
become plain trees of attributes.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenmill_schemas.errors import CheckpointError

_PICKLE = "data.pkl"
_PROGRAM = "constants.pkl"
#: Deeper trees are no modules but cycles.
_MAX_DEPTH = 64

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
#: What bytes raise that are no TorchScript file, or only a part of one.
_MALFORMED = (
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, LookupError, ValueError,
    TypeError, AttributeError, RuntimeError, OverflowError, MemoryError, NotImplementedError,
)  # fmt: skip


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, and not one of tensors only."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return False
    return {_PICKLE, _PROGRAM} <= names


def read_torchscript(path: Path, name: str, *, trust: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a scripted or traced module by their dotted names, on the CPU.

    These are its parameters and buffers, also the buffers that its class calls not persistent.

    Args:
        path: the file.
        name: what the user called it, for errors.
        trust: let torch itself load a file that holds more than this reader knows. That makes
            objects of code in the file, so its maker must be trusted.

    Raises:
        CheckpointError: it is not a whole TorchScript file, or names what this reader does not
            know.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(_tensors(_Reader(archive).load(), ""))
    except _Unknown as error:
        if trust:
            return _by_torch(path, name)
        raise CheckpointError(
            f"{name} is a TorchScript file that holds {error}, which is not read: it could run "
            "code; if you trust its maker, say trust = true, or save its state dict as safetensors"
        ) from error
    except _MALFORMED as error:
        raise CheckpointError(f"{name} is not a whole TorchScript file: {error}") from error


class _Unknown(Exception):  # noqa: N818 - a signal inside this module
    """The pickle names something that is neither tensor, list nor a class of the program."""


class _Module:
    """An object of the program: its attributes, and nothing that could be called."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _Reader(pickle.Unpickler):
    """Reads ``data.pkl`` of one archive; what it may name is a fixed table."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = [name for name in archive.namelist() if name.partition("/")[2] == _PICKLE]
        if len(names) != 1:
            raise ValueError(f"it has {len(names)} records {_PICKLE}")
        self._archive, self._root = archive, names[0].removesuffix(_PICKLE)
        self._storages: dict[str, Tensor] = {}
        self._order = self._byteorder()
        # A class of this reader alone, so that a pickle that alters it alters no other.
        self._module = type("Module", (_Module,), {})
        super().__init__(io.BytesIO(self._record(_PICKLE)))

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what stands for ``module.name``.

        Raises:
            _Unknown: nothing does.
        """
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): dict,
            ("torch", "device"): str,
            ("torch.jit._pickle", "restore_type_tag"): _first,
            **{("torch.jit._pickle", kind): _first for kind in _LISTS},
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise _Unknown(f"{module}.{name}")

    def persistent_load(self, pid: Any, /) -> Tensor:
        """Return a storage as a flat tensor; ``pid`` says its type, record and length."""
        kind, dtype, key, _location, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"unknown persistent id {kind!r}")
        if key not in self._storages:
            self._storages[key] = self._storage(dtype, key)
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage) < count:
            raise ValueError(f"record data/{key} is not {count} values of {dtype}")
        return storage

    def _storage(self, dtype: torch.dtype, key: str) -> Tensor:
        content = bytearray(self._record(f"data/{key}"))
        if not content:
            return torch.empty(0, dtype=dtype)
        if self._order == b"big":
            content = _swapped(content, dtype.itemsize)
        return torch.frombuffer(content, dtype=dtype)

    def _record(self, name: str) -> bytes:
        info = self._archive.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {name} is compressed")
        return self._archive.read(info)

    def _byteorder(self) -> bytes:
        has = self._root + "byteorder" in self._archive.namelist()
        return self._record("byteorder") if has else b"little"


def _swapped(content: bytearray, size: int) -> bytearray:
    """Return values of ``size`` bytes with their bytes in the other order."""
    turned = bytearray(len(content))
    for place in range(size):
        turned[place::size] = content[size - 1 - place :: size]
    return turned


def _tensor(
    storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_rest: object
) -> Tensor:
    """Return a view of a storage; torch itself checks that it lies inside."""
    return storage.as_strided(shape, stride, offset)


def _first(value: Any, *_rest: object) -> Any:
    return value


def _tensors(value: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are attributes of a module or of those inside it."""
    if depth > _MAX_DEPTH:
        raise ValueError("its modules are nested too deeply")
    if not isinstance(value, _Module):
        raise TypeError(f"{prefix or 'its top'} is no module")
    for key, entry in value.attributes.items():
        if isinstance(entry, Tensor):
            yield prefix + key, entry
        elif isinstance(entry, _Module):
            yield from _tensors(entry, f"{prefix}{key}.", depth + 1)


def _by_torch(path: Path, name: str) -> dict[str, Tensor]:
    try:
        load: Any = torch.jit.load  # has no annotations
        module = load(str(path), map_location="cpu")
    except RuntimeError as error:
        text = f"{name} cannot be loaded by torch {torch.__version__}: {error}"
        raise CheckpointError(text) from error
    return dict(module.state_dict())
