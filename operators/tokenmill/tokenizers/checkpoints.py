"""Checkpoints: from the name of a file to a module that holds its weights.

A checkpoint is named by a local path, any fsspec URL, ``hf://owner/repo[@revision]/file``, or
``random:SEED``. Files are safetensors (also with a ``*.index.json``) or torch files; the latter are
read with ``weights_only=True``, so nothing in them runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenmill.tokenizers.filling import weight
from tokenmill.tokenizers.locate import (
    INDEX,
    PATH,
    RANDOM,
    checkpoint_digest,
    checkpoint_files,
    local_file,
)
from tokenmill.tokenizers.torchfile import read_torch
from tokenmill_schemas.errors import CheckpointError

__all__ = [
    "INDEX",
    "RANDOM",
    "Assigned",
    "assign",
    "checkpoint_digest",
    "fill_random",
    "load_into",
    "load_weights",
]

log = logging.getLogger(__name__)

_WRAPPERS = ("module.", "_orig_mod.")
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Assigned:
    """What `assign` left over.

    ``unused_prefixes`` are the shortest dotted beginnings of checkpoint keys that the module does
    not have; ``absent`` the optional prefixes of the module that the checkpoint has nothing of.
    """

    unused_prefixes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def load_weights(
    checkpoint: str, *, unwrap: tuple[str, ...] = (), select: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by their keys, on the CPU.

    Args:
        checkpoint: where the file is (see the module's docstring).
        unwrap: names under which training code keeps the weights (``("ema", "model")``); the first
            that the file has is taken, a dot goes deeper, and a flat file is taken as it is.
        select: prefixes of a model inside a larger one (``gen_vision_model.``); the first that any
            key has is stripped and only those keys stay.

    Raises:
        CheckpointError: there is no such file, or it is not one of tensors only.
        TransientError: a remote place did not answer.
    """
    if checkpoint.startswith(RANDOM):
        raise CheckpointError(f"{checkpoint} names no file; fill_random(module, ...) takes it")
    weights: dict[str, Tensor] = {}
    for name in checkpoint_files(checkpoint, select=select):
        weights |= _tensors(_read(local_file(name), name), unwrap, name)
    for prefix in select:
        if any(key.startswith(prefix) for key in weights):
            return _stripped(weights, prefix)
    return weights


def load_into(
    module: nn.Module,
    checkpoint: str,
    *,
    unwrap: tuple[str, ...] = (),
    select: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> Assigned:
    """Fill ``module`` (also one on the meta device) from a checkpoint or from ``random:SEED``.

    ``optional`` prefixes of the module may be missing as a whole, such as a decoder. Unused keys
    are logged by prefix.

    Raises:
        CheckpointError: as `load_weights` and `assign` do.
    """
    if checkpoint.startswith(RANDOM):
        fill_random(module, checkpoint)
        return Assigned()
    try:
        weights = load_weights(checkpoint, unwrap=unwrap, select=select)
        done = assign(module, weights, optional=optional)
    except CheckpointError as error:
        if error.path:
            raise
        raise CheckpointError(f"{checkpoint}: {error}", path=PATH) from error
    if done.unused_prefixes:
        log.info("%s: unused keys begin with %s", checkpoint, ", ".join(done.unused_prefixes))
    return done


def assign(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    ignore: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> Assigned:
    """Put copies of ``weights`` into every entry of the module's state dict, in its own dtype.

    Args:
        module: any module, also one on the meta device: its tensors are replaced.
        weights: the checkpoint's tensors.
        ignore: prefixes of checkpoint keys that are known to be of no use (``loss.``), not listed.
        optional: prefixes of module keys that may all be missing together; they are left alone.

    Raises:
        CheckpointError: a key is missing or has another shape; lists the first few.
    """
    wanted = module.state_dict()
    absent = optional if not any(key.startswith(optional) for key in weights) else ()
    wanted = {key: value for key, value in wanted.items() if not key.startswith(absent)}
    _check(wanted, weights)
    filled = {
        key: weights[key].detach().to(value.dtype, copy=True) for key, value in wanted.items()
    }
    module.load_state_dict(filled, strict=False, assign=True)
    module.requires_grad_(False)
    unused = (key for key in weights if key not in wanted and not key.startswith(ignore))
    return Assigned(_prefixes(unused, wanted), absent)


def fill_random(module: nn.Module, checkpoint: str) -> None:
    """Fill a module by the text ``random:SEED``: equal for equal texts, whatever the torch version.

    Every entry comes from its key and the seed (rule fill-v1 of `tokenmill.tokenizers.filling`),
    scaled by its fan-in, so that activations stay near 1. Integer buffers are set to zero.

    Raises:
        CheckpointError: SEED is not a whole number.
    """
    seed = checkpoint.removeprefix(RANDOM)
    if not seed.isdecimal():
        text = f"{checkpoint!r}: write random:SEED with a whole number, as random:0"
        raise CheckpointError(text, path=PATH)
    filled = {}
    for key, entry in module.state_dict().items():
        if entry.is_floating_point():
            values = weight(key, tuple(entry.shape), seed=f"{int(seed)}/")
            filled[key] = torch.from_numpy(values).to(entry.dtype)
        else:
            filled[key] = torch.zeros(entry.shape, dtype=entry.dtype)
    module.load_state_dict(filled, assign=True)
    module.requires_grad_(False)


def _read(path: Path, name: str) -> Any:
    if name.endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{name} is not a whole safetensors file: {error}") from error
    return read_torch(path, name)


def _tensors(value: Any, unwrap: tuple[str, ...], name: str) -> dict[str, Tensor]:
    for wrapper in unwrap:
        inner = value
        for part in wrapper.split("."):
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            value = inner
            break
    found = dict(value) if isinstance(value, Mapping) else {}
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        has = ", ".join(map(str, list(found)[:_LISTED])) or type(value).__name__
        raise CheckpointError(f"{name} holds no tensors at its top or under {unwrap}; it has {has}")
    return _bare(tensors)


def _bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip what data-parallel and compiled training put before every key."""
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in weights):
            return _bare(_stripped(weights, prefix))
    return weights


def _stripped(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _check(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    missing = [key for key in wanted if key not in weights]
    other = [k for k, v in wanted.items() if k in weights and weights[k].shape != v.shape]
    lines = [f"{key} {tuple(wanted[key].shape)} is missing" for key in missing[:_LISTED]]
    lines += [
        f"{key} must be {tuple(wanted[key].shape)}, got {tuple(weights[key].shape)}"
        for key in other[:_LISTED]
    ]
    if lines:
        has = ", ".join(list(weights)[:_LISTED])
        raise CheckpointError(
            f"{len(missing)} keys are missing and {len(other)} have another shape: "
            f"{'; '.join(lines)}; the file has {len(weights)} keys ({has}, ...): "
            "is it of this tokenizer and variant?"
        )


def _prefixes(keys: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Shortest dotted beginnings of ``keys`` that no wanted key shares."""
    used = {key[:end] for key in wanted for end in _ends(key)}
    found = set()
    for key in keys:
        starts = (key[:end] for end in _ends(key))
        found.add(next((start for start in starts if start not in used), key))
    return tuple(sorted(found))


def _ends(key: str) -> list[int]:
    return [place for place, letter in enumerate(key) if letter == "."] + [len(key)]
