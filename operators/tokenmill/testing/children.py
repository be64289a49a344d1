"""Processes of a test that end with it, even where it is killed and can end nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

#: ``PR_SET_PDEATHSIG`` of Linux's prctl(2) is 1; it outlives ``execv``. SIGTERM is 15.
_TIE = (
    "import ctypes, os, sys\nctypes.CDLL(None).prctl(1, 15)\nos.execv(sys.argv[1], sys.argv[1:])\n"
)


def tied(command: Sequence[str]) -> list[str]:
    """Return a command line, begun with a program's path, that gets SIGTERM when its parent dies.

    The parent is the thread that starts it. The process id stays that of the program. Only Linux
    knows such a signal; elsewhere the command is returned as it is.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-c", _TIE, *command]
