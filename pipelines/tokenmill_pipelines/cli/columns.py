"""``tokenmill columns`` and ``tokenmill compact``: columns beside shards, and shards made large."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokenmill_pipelines.cli import output
from tokenmill_pipelines.cli.guard import guard
from tokenmill_pipelines.cli.options import Branch, Debug, Json, StoreAt, StoreUri, show
from tokenmill_schemas.errors import JobError

if TYPE_CHECKING:
    from tokenmill.store import Store, Version
    from tokenmill.store.groups import GroupInput

commands = typer.Typer()
columns_app = typer.Typer(
    help="Add streams, captions or scores to the samples of a store, without rewriting shards.",
    no_args_is_help=True,
)
commands.add_typer(columns_app, name="columns")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the column group is called.")]
Chosen = Annotated[
    str,
    typer.Option(
        "--columns", metavar="A,B:NEW", help="Columns to take, and new names; else all of a file's."
    ),
]


@columns_app.command("add")
def add(
    store: StoreUri,
    name: Name,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Parquet, JSONL or Arrow files or URLs with a key column."
        ),
    ] = None,
    from_store: Annotated[
        str,
        typer.Option("--from-store", metavar="OTHER[@REF]", help="Take another store's tokens."),
    ] = "",
    streams: Annotated[
        str,
        typer.Option(
            "--streams", metavar="A,B:NEW", help="Streams of that store, and new names; else all."
        ),
    ] = "",
    columns: Chosen = "",
    by: Annotated[
        Literal["sample_id", "asset_key"] | None,
        typer.Option("--by", help="What rows are joined by; else the one that the files have."),
    ] = None,
    covered: Annotated[
        Literal["refuse", "keep", "replace"],
        typer.Option("--covered", help="What to do about shards that the group covers already."),
    ] = "refuse",
    branch: Branch = "main",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Add columns to samples by their ids: captions, scores, or another tokenizer's streams."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store.groups import add_group

        if bool(files) == bool(from_store):
            raise JobError("name files or --from-store, one of the two", path="columns")
        if streams and not from_store:
            raise JobError("streams come from a store: say --from-store", path="streams")
        if by and from_store:
            raise JobError("another store is joined by sample_id", path="by")
        opened = _open(store, branch)
        source = (
            _stored(from_store, streams, columns)
            if from_store
            else _listed(files or [], columns, by)
        )
        added = add_group(opened, name, source, covered=covered)
        show(_told(added.snapshot.number, asdict(added), name), "done", as_json=as_json)


@columns_app.command("drop")
def drop(
    store: StoreUri,
    name: Name,
    branch: Branch = "main",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Leave a column group out of the next version; older versions keep it."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store.groups import drop_group

        snapshot = drop_group(_open(store, branch), name)
        show({"dropped": name, "snapshot": snapshot.number}, "done", as_json=as_json)


@columns_app.command("list")
def list_columns(store: StoreAt, as_json: Json = False, debug: Debug = False) -> None:
    """List the column groups of a version, what they add, and how much they cover."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import stores

        opened, ref = stores.open_at(store)
        value = _described(opened.at(ref))
        if as_json:
            output.document(value)
            return
        names = ("group", "streams", "columns", "shards", "samples", "bytes")
        rows = [[_joined(entry[name]) for name in names] for entry in value]
        output.table("", names, rows)
        if not rows:
            print("no column groups")


@commands.command()
def compact(
    store: StoreUri,
    target_mb: Annotated[
        int, typer.Option("--target-mb", min=1, help="Size of a full shard, in MiB.")
    ] = 128,
    target_rows: Annotated[
        int | None, typer.Option("--target-rows", min=1, help="Samples of a full shard, at most.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    branch: Branch = "main",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make many small shards into full-size ones: same samples, same order, a new version."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store.compact import compact as make

        done = make(
            _open(store, branch),
            target_bytes=target_mb * 2**20,
            target_rows=target_rows,
            dry_run=dry_run,
        )
        show({"dry_run": dry_run, **asdict(done)}, "compacted", as_json=as_json)


def _open(uri: str, branch: str) -> Store:
    from tokenmill.store import Store

    return Store.open(uri).on(branch)


def _listed(
    files: list[str], columns: str, by: Literal["sample_id", "asset_key"] | None
) -> GroupInput:
    from tokenmill.store.groups import from_files

    return from_files(*files, columns=_renamed(columns) if columns else None, by=by)


def _stored(other: str, streams: str, columns: str) -> GroupInput:
    from tokenmill.store.groups import from_store
    from tokenmill_pipelines.cli import stores

    opened, ref = stores.open_at(other)
    taken = _renamed(streams) if streams else None
    return from_store(opened.at(ref), taken, _renamed(columns) if columns else None)


def _renamed(text: str) -> dict[str, str]:
    """Return what ``a,b:new`` takes, and what to call it."""
    pairs = (word.strip().partition(":") for word in text.split(","))
    return {old: new or old for old, _, new in pairs}


def _told(number: int, added: dict[str, Any], name: str) -> dict[str, Any]:
    counts = {count: added[count] for count in ("shards", "samples", "unmatched")}
    return {"group": name, "snapshot": number, **counts}


def _described(version: Version) -> list[dict[str, Any]]:
    from tokenmill.store.groups import group_table

    described = []
    for group in version.snapshot.groups:
        table = group_table(version.store.storage, group, ["present", "bytes"])
        present, size = (sum(table.column(name).to_pylist()) for name in ("present", "bytes"))
        described.append(
            {
                "group": group.name,
                "streams": [stream.name for stream in group.spec.streams],
                "columns": list(group.columns),
                "shards": table.num_rows,
                "samples": present,
                "bytes": size,
                "fingerprint": group.fingerprint,
            }
        )
    return described


def _joined(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value
