"""Model folders as the Hugging Face libraries write them: a config.json with the weights beside it.

A folder is named by a local path, ``hf://owner/repo[@revision][/subfolder]``, or any other fsspec
URL; a name whose last part has a weights file's suffix is that file instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenmill.tokenizers.locate import INDEX, PATH, RANDOM, UnreachableError, local_file
from tokenmill_schemas.errors import CheckpointError

CONFIG = "config.json"
FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", INDEX)


def is_folder(checkpoint: str) -> bool:
    """Whether a checkpoint names a model folder, by its form alone unless it is local."""
    if not checkpoint or checkpoint.startswith(RANDOM):
        return False
    if "://" not in checkpoint and Path(checkpoint).expanduser().exists():
        return Path(checkpoint).expanduser().is_dir()
    return not checkpoint.endswith(FILES)


def folder_config(folder: str) -> dict[str, Any]:
    """Return the folder's config.json.

    Raises:
        CheckpointError: it has none, or that is not a JSON object.
        TransientError: a remote place did not answer.
    """
    name = _inside(folder, CONFIG)
    try:
        config = json.loads(local_file(name).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{name} is not JSON: {error}", path=PATH) from error
    if not isinstance(config, dict):
        text = f"{name} must be a JSON object, got {type(config).__name__}"
        raise CheckpointError(text, path=PATH)
    return config


def folder_weights(folder: str, names: Sequence[str]) -> str:
    """Return the name of the first of the weights files ``names`` that the folder has.

    Raises:
        CheckpointError: it has none of them.
        TransientError: a remote place did not answer.
    """
    for name in names:
        try:
            local_file(_inside(folder, name))
        except UnreachableError:
            raise
        except CheckpointError:
            continue
        return _inside(folder, name)
    raise CheckpointError(f"{folder} has none of {', '.join(names)}", path=PATH)


def weights_file(checkpoint: str, names: Sequence[str]) -> str:
    """Return the weights of a model folder (see `folder_weights`), or the file that is named.

    Raises:
        CheckpointError: the folder has none.
    """
    return folder_weights(checkpoint, names) if is_folder(checkpoint) else checkpoint


def _inside(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
