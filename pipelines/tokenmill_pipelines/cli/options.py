"""Options that many commands have, and how they show their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenmill_pipelines.cli import output

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A job file (TOML).")]
StoreUri = Annotated[str, typer.Argument(metavar="STORE", help="A store's folder or URL.")]
StoreAt = Annotated[
    str,
    typer.Argument(metavar="STORE[@REF]", help="A store, and which version of it; else newest."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change a key of the job; repeatable."),
]
Ref = Annotated[
    str | None,
    typer.Option("--ref", help="Number, tag, branch, branch:number or date; else the newest."),
]
Branch = Annotated[str, typer.Option("--branch", help="The branch that gets the new version.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def show(value: Any, renderer: str, *, as_json: bool) -> None:
    """Print an answer: as a JSON document, or by the function of `render` of that name."""
    if as_json:
        output.document(value)
        return
    from tokenmill_pipelines.cli import render

    getattr(render, renderer)(value)
