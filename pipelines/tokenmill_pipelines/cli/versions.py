"""The commands about versions: what there are, how they differ, what they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tokenmill_pipelines.cli.guard import guard
from tokenmill_pipelines.cli.options import Branch, Debug, Json, Ref, StoreAt, StoreUri, show


def log(store: StoreAt, as_json: Json = False, debug: Debug = False) -> None:
    """List the versions of a store, newest first; of STORE@BRANCH those of a branch."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import stores

        opened, ref = stores.open_at(store)
        show(stores.describe_log(opened, ref), "log", as_json=as_json)


def show_version(
    store: StoreAt, ref: Ref = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show what a version of a store holds."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import stores

        opened, chosen = stores.open_at(store, ref)
        show(stores.describe_store(opened, chosen), "store", as_json=as_json)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="The earlier one: STORE[@REF].")],
    after: Annotated[
        str, typer.Argument(metavar="B", help="The later one: STORE[@REF], or @REF of A's store.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Assets to list; 0 is all.")] = 50,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which assets were added, removed, changed or tokenized again between two versions."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import stores

        show(stores.describe_diff(before, after, limit=limit), "difference", as_json=as_json)


def tag(
    store: StoreUri,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name; it never moves.")],
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="What version; else the newest.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Name a version of a store for ever."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store import Store

        snapshot = Store.open(store).tag(name, ref)
        _tell({"tag": name}, snapshot, as_json=as_json)


def branch(
    store: StoreUri,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The branch to begin.", show_default=False)
    ] = "",
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="Where it begins; else at the newest.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Forget the branch instead.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the branches of a store, begin one or forget one; jobs name theirs in store.branch."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store import Store
        from tokenmill_pipelines.cli import stores

        opened = Store.open(store)
        if name and delete:
            opened.delete_branch(name)
        elif name:
            opened.create_branch(name, ref)
        show(stores.describe_branches(opened), "branches", as_json=as_json)


def restore(
    store: StoreUri,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The version to go back to.")],
    branch: Branch = "main",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make the content of an older version the newest one; nothing is lost from the log."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store import Store

        snapshot = Store.open(store).on(branch).restore(ref)
        _tell({"restored": ref}, snapshot, as_json=as_json)


def merge(
    store: StoreUri,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The branch to bring in.")],
    into: Annotated[str, typer.Option("--into", help="The branch that gets it.")] = "main",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Bring what a branch did since it began into the branch that it comes from."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store import Store

        snapshot = Store.open(store).on(into).merge(name)
        _tell({"merged": name}, snapshot, as_json=as_json)


def _tell(done: dict[str, Any], snapshot: Any, *, as_json: bool) -> None:
    facts = {"number": snapshot.number, "content_id": snapshot.content_id}
    show(done | {"branch": snapshot.branch} | facts, "done", as_json=as_json)


COMMANDS: dict[str, Callable[..., None]] = {
    "show": show_version,
    "log": log,
    "diff": diff,
    "tag": tag,
    "branch": branch,
    "restore": restore,
    "merge": merge,
}
