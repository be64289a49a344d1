"""The command ``tokenmill``.

Exit codes: 0 done, 1 failed, 2 bad job or bad usage, 3 done with quarantine, 130 interrupted, 143
terminated. With ``--json`` standard output holds one JSON document and nothing else; progress and
errors are JSON lines on standard error.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; the entry point of ``tokenmill``."""
    try:
        from tokenmill_pipelines.cli.app import app
    except ModuleNotFoundError as error:
        # A base install is what a trainer needs; it has no command line.
        sys.exit(f"tokenmill: the command needs {error.name!r}: pip install 'tokenmill[cluster]'")
    app(prog_name="tokenmill")
