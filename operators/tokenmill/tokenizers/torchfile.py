"""Torch checkpoint files, read without running anything that is in them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from tokenmill_schemas.errors import CheckpointError

#: Training frames leave their own bookkeeping beside the weights (Lightning's callbacks, omegaconf
#: and argparse settings, numpy scalars). Such things are read as `Inert`, never imported.
_BOOKKEEPING = frozenset(
    {"pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "argparse", "pathlib"}
    | {"numpy", "typing", "collections", "_codecs"}
)

#: What torch's reader raises on bytes that are no checkpoint, or only a part of one; OSError where
#: it looks for a zip's end before the file's beginning.
_MALFORMED = (
    RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, struct.error,
    AssertionError, OSError,
)  # fmt: skip


class Inert:
    """Stands for any object beside the weights; keeps nothing and does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        """Take any arguments and keep none."""
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Drop the state."""


def read_torch(path: Path, name: str) -> Any:
    """Return what a ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or ``.pkl`` file holds, on the CPU.

    Raises:
        CheckpointError: it is not a torch file, or holds objects that only running code could make.
    """
    try:
        with torch.serialization.safe_globals(_stand_ins(path)):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name} is not a torch file of tensors only; reading the rest would run code from it, "
            f"so it is refused: save its state dict as safetensors ({_first_line(error)})"
        ) from error
    except _MALFORMED as error:
        raise CheckpointError(f"{name} is not a whole torch file: {_first_line(error)}") from error


def _stand_ins(path: Path) -> list[Any]:
    if not zipfile.is_zipfile(path):
        return []
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(Inert, name) for name in names if name.partition(".")[0] in _BOOKKEEPING]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
