"""What all contracts check with; plain errors, so that they hold under ``python -O`` too."""

from __future__ import annotations

from typing import Any, Protocol

from tokenmill_schemas.canonical import canonical_json


class HasIdentity(Protocol):
    """An operator that says what can change its results."""

    @property
    def identity(self) -> dict[str, Any]:
        """The identity, as JSON."""
        ...


def require(holds: bool, promise: str) -> None:
    """Raise `AssertionError` with the promise that is broken, unless it ``holds``."""
    if not holds:
        raise AssertionError(f"broken promise: {promise}")


def require_identity(operator: HasIdentity) -> None:
    """Check that the identity is JSON and the same each time."""
    require(isinstance(operator.identity, dict), "an identity is a dict")
    first, second = canonical_json(operator.identity), canonical_json(operator.identity)
    require(first == second, "an identity is deterministic")
