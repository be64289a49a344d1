"""From a picture to the views that are tokenized; one module a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tokenmill.plugins import open_operator

if TYPE_CHECKING:
    from tokenmill.views.base import View

__all__ = ["open_view"]


def open_view(kind: str, options: Mapping[str, Any] | None = None) -> View:
    """Return the view of ``kind``, a module of this package or ``package.module:Class``.

    Raises:
        JobError: unknown kind or key, or a value of the wrong type.
    """
    return cast("View", open_operator("tokenmill.views", kind, options or {}, path="view"))
