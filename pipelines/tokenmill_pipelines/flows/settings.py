"""Prefect's settings for tokenmill, made before Prefect is imported; the user's own win."""

from __future__ import annotations

import os
from pathlib import Path

#: No telemetry, and nothing on the terminal that the observer already says.
DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

#: Set by ``tokenmill serve --json`` for the processes of its runs.
JSON_LINES = "TOKENMILL_JSON_LINES"


def home() -> Path:
    """Return ``PREFECT_HOME``, or a home of tokenmill's own in the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(os.environ.get("PREFECT_HOME") or Path(state, "tokenmill", "prefect"))


def configured() -> bool:
    """Whether the user has named a Prefect API."""
    return bool(os.environ.get("PREFECT_API_URL"))


def configure() -> None:
    """Set what the user has not set, for this process and those it starts."""
    os.environ.setdefault("PREFECT_HOME", str(home()))
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
