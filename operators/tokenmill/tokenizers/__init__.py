"""Visual tokenizers: `open_tokenizer` finds one by kind; nothing heavy is imported before that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tokenmill.plugins import open_operator

if TYPE_CHECKING:
    from tokenmill.tokenizers.base import Tokenizer

__all__ = ["open_tokenizer"]


def open_tokenizer(
    kind: str,
    *,
    variant: str | None = None,
    checkpoint: str | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tokenizer:
    """Return the description of a tokenizer; its ``load(device)`` gives the live encoder.

    Args:
        kind: a module of this package (``llamagen``, ``titok``, ...) or ``package.module:Class``.
        variant: one of the tokenizer's named architectures.
        checkpoint: a local path, any fsspec URL, ``hf://owner/repo[@revision]/file``, or
            ``random:SEED`` (weights drawn from a seed, for tests and benchmarks).
        config: changes to the variant's architecture, key by key.
        options: further fields of the tokenizer's own dataclass (``dtype``, ...).

    Raises:
        JobError: unknown kind, variant or key.
    """
    given = {"variant": variant, "checkpoint": checkpoint, "config": config}
    fields = {key: value for key, value in given.items() if value is not None} | options
    operator = open_operator("tokenmill.tokenizers", kind, fields, path="tokenizer")
    return cast("Tokenizer", operator)
