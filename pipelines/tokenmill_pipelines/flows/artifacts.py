"""A progress artifact that follows what an observer is told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tokenmill_infra.observe import Observer

#: Seconds between two updates of the progress artifact.
EVERY_S = 5.0


class ArtifactObserver:
    """Passes everything on, and keeps a progress artifact named ``key``."""

    def __init__(self, inner: Observer, *, key: str, description: str) -> None:
        self._inner = inner
        self._key, self._description = key, description
        self._artifact: UUID | None = None
        self._said_at = float("-inf")

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Pass on."""
        return self._inner.stage(name)

    def event(self, name: str, /, **facts: Any) -> None:
        """Pass on."""
        self._inner.event(name, **facts)

    def warn(self, message: str, /, **facts: Any) -> None:
        """Pass on."""
        self._inner.warn(message, **facts)

    def progress(
        self, done_assets: int, total_assets: int, *, samples: int = 0, **facts: Mapping[str, Any]
    ) -> None:
        """Pass on, and update the artifact now and then."""
        self._inner.progress(done_assets, total_assets, samples=samples, **facts)
        now = time.monotonic()
        finished = done_assets == total_assets
        if not finished and now - self._said_at < EVERY_S:
            return
        self._said_at = now
        # An observer never fails a run: hours of work outlast a server that is away.
        with contextlib.suppress(httpx.HTTPError):
            self._update(100.0 * done_assets / total_assets if total_assets else 0.0)

    def _update(self, share: float) -> None:
        if self._artifact is None:
            made = create_progress_artifact(share, key=self._key, description=self._description)
            self._artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._artifact, share)
