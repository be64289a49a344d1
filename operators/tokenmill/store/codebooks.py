"""Codebooks: the vectors that a store's ids stand for, beside them and by their fingerprint.

A next-scale generator's input (VAR), noise of near codes and initial embeddings need them, and a
trainer should need no tokenizer and no checkpoint to have them. There is one file for each
fingerprint, in safetensors, written once and never changed; gc leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from tokenmill.store.paths import codebook_file
from tokenmill_schemas.errors import CorruptShardError, StoreError

if TYPE_CHECKING:
    from tokenmill.store.store import Store

Arrays = dict[str, npt.NDArray[Any]]


def has_codebook(store: Store, fingerprint: str) -> bool:
    """Whether the codebook of a fingerprint's tokens is kept."""
    return store.storage.exists(codebook_file(fingerprint))


def put_codebook(store: Store, fingerprint: str, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Keep the codebook of a fingerprint's tokens, unless it is there; returns whether it was not.

    Equal arrays make equal bytes.

    Args:
        store: where.
        fingerprint: of the tokens.
        arrays: ``<stream>``: float32[vocabulary, D], and what else feeds need, such as VAR's
            ``phi.<i>.weight`` and ``phi.<i>.bias``.
    """
    path = codebook_file(fingerprint)
    if has_codebook(store, fingerprint):
        return False
    whole = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    try:
        store.storage.create(
            path, safetensors.numpy.save(whole, metadata={"fingerprint": fingerprint})
        )
    except FileExistsError:
        return False
    return True


def read_codebook(store: Store, fingerprint: str) -> Arrays:
    """Return the codebook of a fingerprint's tokens.

    Raises:
        StoreError: none is kept: the tokens were made before stores kept them, or their codes
            follow from a rule, or there are none.
        CorruptShardError: the file is no safetensors file.
    """
    path = codebook_file(fingerprint)
    try:
        data = store.storage.read(path)
    except FileNotFoundError:
        raise StoreError(
            f"keeps no codebook of fingerprint {fingerprint[:12]} ({path}). Runs write it before "
            "their first shard if the tokenizer has one; FSQ and binary codes follow from a rule "
            "(tokenmill.feed.shaping.fsq_codebook, lfq_codebook). Of older tokens: "
            "tokenmill.store.codebooks.put_codebook(store, fingerprint, "
            "tokenizer.load().codebook())",
            uri=store.uri,
        ) from None
    try:
        arrays: Arrays = safetensors.numpy.load(data)
    except (ValueError, safetensors.SafetensorError) as error:
        raise CorruptShardError(f"{path} is no safetensors file: {error}", uri=store.uri) from error
    return arrays
