"""Taking secrets out of a job before it is written anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "•••"

#: Names of keys whose values are secrets. "tokenizer" and "key" (a column's name) are not.
_SECRET = re.compile(
    r"(?i)(^|[._-])(secret|password|passwd|passphrase|credentials?|token|sas|signature"
    r"|(secret|access|api|account|private)[_-]?key([_-]?id)?)($|[._-])"
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?i)([?&](?:[^=&\s]*(?:signature|token|secret|key|sig))=)[^&\s]+")


def redact(value: Any, name: str = "") -> Any:
    """Return ``value`` with secrets replaced: by their key's name, or as part of a URL."""
    if name and _SECRET.search(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(k): redact(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(entry) for entry in value]
    if isinstance(value, str):
        return _QUERY.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", value))
    return value
