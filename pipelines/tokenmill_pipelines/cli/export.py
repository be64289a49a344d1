"""``tokenmill export``: a version of a store in the forms that other libraries read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tokenmill_pipelines.cli.guard import guard
from tokenmill_pipelines.cli.options import Debug, Json, StoreAt, show

commands = typer.Typer()


@commands.command()
def export(
    store: StoreAt,
    name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="webdataset, huggingface, parquet, delta, mds, litdata, or package.module:Class.",
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="URI", help="A new folder or URL; delta adds to its own.")
    ],
    where: Annotated[
        str,
        typer.Option(
            "--where", metavar="EXPR", help="Only samples for which this is true, as in SQL."
        ),
    ] = "",
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A column group to write too; repeatable."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="An option of the format, as file_bytes=67108864; repeatable.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write what a feed of a version would show in a form that another library reads."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.export import export as write
        from tokenmill.export import open_exporter
        from tokenmill_pipelines.cli import stores

        opened, ref = stores.open_at(store)
        given = dict(_option(text) for text in options or ())
        exporter = open_exporter(name, given)
        done = write(opened.at(ref), exporter, to, where=where, groups=groups or ())
        show(asdict(done), "done", as_json=as_json)


def _option(text: str) -> tuple[str, str | int]:
    """Return an option's name and value; a whole number is one."""
    key, equals, value = text.partition("=")
    if not equals:
        from tokenmill_schemas.errors import JobError

        raise JobError(f"{text!r} is not KEY=VALUE", path="option")
    return key, int(value) if value.isdecimal() else value
