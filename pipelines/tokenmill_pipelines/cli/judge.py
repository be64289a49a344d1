"""``tokenmill judge``: what comes back of pictures, clips and shapes, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenmill_pipelines.cli import output
from tokenmill_pipelines.cli.guard import QUARANTINE, guard
from tokenmill_pipelines.cli.options import Debug, Json

if TYPE_CHECKING:
    from tokenmill_pipelines.judge.verdict import Verdict


Tokenizers = Annotated[
    list[str],
    typer.Argument(
        metavar="TOKENIZER",
        help="A kind, or a TOML file with [tokenizer]; several are compared.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data", metavar="SOURCE", help="A folder, glob, listing or job file; repeatable."
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=VALUE", help="A key of tokenizer, view or source; repeatable."
    ),
]
Kind = Annotated[
    str, typer.Option("--view", help="Kind of view; else the tokenizer's own default.")
]
Content = Annotated[
    str, typer.Option("--content", help="Class of all assets: photo, drawing, text, face, ...")
]
Column = Annotated[
    str, typer.Option("--by", metavar="COLUMN", help="Column of a listing with that class.")
]
Limit = Annotated[
    int, typer.Option("--limit", min=0, help="Assets, chosen by a hash of their keys; 0: all.")
]
Views = Annotated[int, typer.Option("--views", min=1, help="Views of each asset.")]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        "--skip", help="codecs, prefixes, perturbed, text or faces, to save time; repeatable."
    ),
]
Features = Annotated[
    str, typer.Option("--features", help="TorchScript network for the Frechet distance.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the report.")]


def judge(
    tokenizer: Tokenizers,
    data: Data = None,
    view: Kind = "",
    sets: Keys = None,
    content: Content = "",
    by: Column = "content",
    limit: Limit = 64,
    views: Views = 4,
    skip: Skip = None,
    features: Features = "",
    out: Out = Path("judge"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what tokenizers give back, beside JPEG, WebP and AVIF, and write a report."""
    with guard(as_json=as_json, debug=debug) as observer:
        from tokenmill_infra.cluster import limit_threads
        from tokenmill_schemas.job import ClusterConfig

        limit_threads(ClusterConfig())  # before numpy is loaded, which reads it once
        from tokenmill_pipelines.judge.command import Asked, run

        asked = Asked(
            tokenizers=tuple(tokenizer),
            data=tuple(data or ()),
            view=view,
            overrides=tuple(sets or ()),
            settings={
                "limit": limit,
                "views_per_asset": views,
                "content": content,
                "column": by,
                "skip": tuple(skip or ()),
                "features": features,
            },
            out=out,
        )
        verdict, files = run(asked, observer=observer)
        if as_json:
            output.document(verdict.to_json() | {"files": files})
        else:
            _show(verdict, files)
        if verdict.failed:
            raise typer.Exit(QUARANTINE)


def _show(verdict: Verdict, files: dict[str, str]) -> None:
    from tokenmill_pipelines.judge import tables

    for title, made in (
        ("", tables.overview(verdict)),
        ("by content", tables.by_content(verdict)),
        ("at equal bytes", tables.equal_bytes(verdict)),
        ("prefixes", tables.prefixes(verdict)),
    ):
        output.table(title, made.head, made.rows)
    facts = [
        (f"{title.lower()}, {judged.name}", f"{label}: {value}")
        for judged in verdict.judged
        for title, _, found in tables.facts_of(judged)
        for label, value in found[:1]
    ]
    failed = len(tables.failures(verdict))
    left_out = [(f"no {part}", why) for part, why in tables.not_measured(verdict)]
    asked = [("not judged", f"{failed} assets or views; the report says why" if failed else "")]
    output.facts([*facts, *left_out, *asked, ("report", files["report.html"])])
