"""Weights of the tokenizers that are trained here: where the shipped ones lie.

Each lies beside its model card, which says what it was trained on, how good it is and how it is
made again. They are stored in float16 and computed with in float32.
"""

from __future__ import annotations

from pathlib import Path

from tokenmill.tokenizers.describe import Weights
from tokenmill.tokenizers.locate import PATH
from tokenmill_schemas.errors import CheckpointError

FOLDER = Path(__file__).parent / "weights"


def shipped(name: str) -> Path:
    """Return the path of the shipped weights of a name, such as ``mill_image_f8``."""
    return FOLDER / f"{name}.safetensors"


def weights_of(name: str, checkpoint: str) -> Weights:
    """Return where weights come from: the shipped ones unless a checkpoint is named.

    Raises:
        CheckpointError: there are no shipped ones.
    """
    if not checkpoint and not shipped(name).is_file():
        text = (
            f"this installation has no weights of {name}: name those of `tokenmill fit {name}.toml`"
        )
        raise CheckpointError(text, path=PATH)
    return Weights(checkpoint or str(shipped(name)))
