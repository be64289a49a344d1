"""The weights that a fit is for: one safetensors file, the same bytes whoever writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from safetensors.torch import save
from torch import Tensor

from tokenmill_pipelines.fit.config import FitJob
from tokenmill_schemas.canonical import canonical_json, digest, digest_bytes

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights; ``path`` is below the output, ``address`` where anybody finds it."""

    path: str
    address: str
    sha256: str
    size_bytes: int


def job_digest(job: FitJob) -> str:
    """Return the sha256 of all that shapes a job's weights."""
    return digest(job.identity)


def weights_bytes(tensors: Mapping[str, Tensor], job: FitJob) -> bytes:
    """Return a safetensors file whose header says, as JSON under "tokenmill", what job made it.

    All of it is under one key: the format's writer keeps no order of several.
    """
    about = canonical_json({"name": job.name, "job": job_digest(job)}).decode()
    return save(dict(tensors), metadata={"tokenmill": about})


def sha256_of(data: bytes) -> str:
    """Return a file's sha256 (hex)."""
    return digest_bytes([data])
