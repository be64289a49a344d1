"""``tokenmill takedown`` and ``tokenmill gc``: what must not be shown, and what is not needed."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokenmill_pipelines.cli import output
from tokenmill_pipelines.cli.guard import FAILED, guard
from tokenmill_pipelines.cli.options import Debug, Json, StoreUri
from tokenmill_schemas.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenmill.store import Store
    from tokenmill.store.purge import DueReport

commands = typer.Typer()

#: Names and files that people see; `--json` has all that there are.
SHOWN = 20
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

Receipt = Annotated[
    Path | None,
    typer.Option("--receipt", metavar="FILE", help="Where to put the receipt of what was removed."),
]


@commands.command()
def takedown(
    store: StoreUri,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="Keys of assets, one a line; - is stdin."),
    ] = None,
    where: Annotated[
        str,
        typer.Option("--where", metavar="EXPR", help="All assets with a sample where this holds."),
    ] = "",
    by: Annotated[
        Literal["asset_key", "sample_id"], typer.Option("--by", help="What the keys are.")
    ] = "asset_key",
    reason: Annotated[
        str, typer.Option("--reason", help="For the record, which stays for ever: name no asset.")
    ] = "",
    purge: Annotated[
        bool, typer.Option("--purge", help="Also rewrite the shards, and remove older versions.")
    ] = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Until they are removed: 0, 12h, 7d.")
    ] = "7d",
    receipt: Receipt = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Hide assets from every reader of every version of a store, at once and for ever.

    With --purge they leave its files too: the newest versions at once, the older ones, and all
    else that holds them, when the time of --grace is over (by `tokenmill gc`).
    """
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store import Store

        grace_s = seconds(grace, "--grace")
        _check(purge=purge, named=bool(keys or where), later=grace_s > 0, receipt=receipt)
        opened = Store.open(store)
        value: dict[str, Any] = {"store": opened.uri, "takedown": None, "purge": None}
        if keys or where:
            from tokenmill.store.takedown import takedown as take_down

            names = _names(keys) if keys else ()
            done = take_down(opened, keys=names, by=by, where=where, reason=reason)
            value["takedown"] = asdict(done)
        if purge:
            value |= _purge(opened, grace_s, receipt)
        output.document(value) if as_json else _show_takedown(value)
        if value.get("removal", {}).get("held") and not grace_s:
            raise typer.Exit(FAILED)


@commands.command()
def gc(
    store: StoreUri,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Younger files stay: 0, 12h, 7d.")
    ] = "7d",
    expire: Annotated[
        str,
        typer.Option(
            "--expire-older-than",
            metavar="TIME",
            help="First let go of versions that were superseded so long ago and have no tag.",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    receipt: Receipt = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete what no version of a store needs, after the purges that are due.

    Nothing is deleted that a version, a tag, a running job or the time of --grace holds.
    """
    with guard(as_json=as_json, debug=debug):
        from tokenmill.store import Store
        from tokenmill.store.gc import gc as collect
        from tokenmill.store.purge import execute_due, pending_purges

        grace_s = seconds(grace, "--grace")
        expire_s = seconds(expire, "--expire-older-than") if expire else None
        opened = Store.open(store)
        value: dict[str, Any] = {"store": opened.uri}
        if not dry_run:
            value["removal"] = _removal(execute_due(opened), receipt)
        done = collect(opened, grace_s=grace_s, dry_run=dry_run, expire_older_than_s=expire_s)
        pending = pending_purges(opened.takedowns.records())
        value |= asdict(done) | {"purges": [_pending(record.facts) for record in pending]}
        output.document(value) if as_json else _show_gc(value)


def seconds(text: str, option: str) -> float:
    """Return the seconds of a time such as ``90s``, ``15m``, ``12h``, ``7d``, ``2w`` or ``0``.

    Raises:
        JobError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])|0", text.strip())
    if found is None:
        raise JobError(f"{text!r} is no time; write 0, or as 90s, 15m, 12h, 7d, 2w", path=option)
    return float(found[1]) * UNITS_S[found[2]] if found[1] else 0.0


def _check(*, purge: bool, named: bool, later: bool, receipt: Path | None) -> None:
    if not (purge or named):
        raise JobError("names nothing: give --keys or --where", path="takedown")
    if receipt is not None and not purge:
        raise JobError("goes with --purge: a takedown alone removes nothing", path="--receipt")
    if receipt is not None and later:
        raise JobError(
            "goes with --grace 0; else `tokenmill gc --receipt` writes it, when it has removed all",
            path="--receipt",
        )


def _names(file: Path) -> tuple[str, ...]:
    """Return the lines of a file, but for empty ones; spaces belong to names."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read {file}: {error}", path="--keys") from error
    names = tuple(line for line in text.split("\n") if line.strip())
    if not names:
        raise JobError(f"{file} names nothing", path="--keys")
    return tuple(name.removesuffix("\r") for name in names)


def _purge(store: Store, grace_s: float, receipt: Path | None) -> dict[str, Any]:
    from tokenmill.store.purge import execute_due, purge

    done = asdict(purge(store, grace_s=grace_s))
    value = {"purge": done | {"due_at": _moment(done["due_at"])}}
    return value if grace_s else value | {"removal": _removal(execute_due(store), receipt)}


def _removal(done: DueReport, receipt: Path | None) -> dict[str, Any]:
    """Return what was removed in short, and write its receipt."""
    import json

    if receipt is not None and done.receipt:
        receipt.write_bytes(done.receipt)
    facts = json.loads(done.receipt) if done.receipt else {}
    counts = facts.get("files", {}).values()
    return {
        "record": done.number,
        "sha256": done.sha256,
        "receipt": str(receipt) if receipt and done.receipt else "",
        "versions": _ordered(facts.get("versions", {})),
        "tags": sorted(facts.get("tags", {})),
        "shards": len(facts.get("shards", {})),
        "files": sum(count for count, _ in counts),
        "bytes": sum(size for _, size in counts),
        "held": done.held,
        "waiting": [_moment(due) for due in done.waiting],
    }


def _pending(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "due_at": _moment(facts["due_at"]),
        "versions": _ordered(facts["versions"]),
        "tags": sorted(facts["tags"]),
    }


def _ordered(versions: Iterable[str]) -> list[str]:
    """Return names as ``main:11`` by branch and number."""
    parts = (name.rpartition(":") for name in versions)
    return [f"{branch}:{n}" for branch, n in sorted((b, int(n)) for b, _, n in parts)]


def _moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")


def _show_takedown(value: dict[str, Any]) -> None:
    done, purge = value["takedown"], value["purge"]
    if done is not None:
        record = done["number"] if done["number"] is not None else "none: it was taken down before"
        unknown = done["unknown"]
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        output.facts(
            [
                ("store", value["store"]),
                ("taken down", f"{done['assets']:,} assets, {done['samples']:,} samples"),
                ("not there", f"{', '.join(unknown[:SHOWN])}{more}" if unknown else ""),
                ("record", record),
                ("newest", ", ".join(f"{b}:{n}" for b, n in done["versions"].items())),
            ]
        )
    if purge is not None:
        due = ", ".join(purge["due_versions"])
        output.facts(
            [
                ("purged", ", ".join(f"{b}:{n}" for b, n in purge["versions"].items())),
                ("due", f"{purge['due_at']}: {due or 'no version'}" if purge["number"] else "none"),
                ("with tags", ", ".join(purge["due_tags"])),
            ]
        )
    if "removal" in value:
        _show_removal(value["removal"])


def _show_removal(value: dict[str, Any]) -> None:
    from tokenmill_pipelines.report import text

    removed = f"{value['files']:,} files, {text.size(value['bytes'])}" if value["record"] else ""
    output.facts(
        [
            ("removed", removed),
            ("versions", ", ".join(value["versions"])),
            ("tags", ", ".join(value["tags"])),
            ("receipt", f"{value['receipt']} sha256 {value['sha256']}" if value["sha256"] else ""),
            ("not yet", value["held"]),
            ("later", ", ".join(value["waiting"])),
        ]
    )


def _show_gc(value: dict[str, Any]) -> None:
    from tokenmill_pipelines.report import text

    if "removal" in value:
        _show_removal(value["removal"])
    files = [(path, text.size(size)) for path, size in value["files"][:SHOWN]]
    if value["dry_run"]:
        output.table("would be deleted", ("file", "size"), files)
    rows = [(name, count, text.size(size)) for name, (count, size) in value["folders"].items()]
    output.table("", ("folder", "files", "size"), rows)
    word = "would delete" if value["dry_run"] else "deleted"
    due = [f"{one['due_at']}: {', '.join(one['versions'])}" for one in value["purges"]]
    output.facts(
        [
            (word, f"{value['deleted']:,} files, {text.size(value['bytes'])}"),
            ("expired", ", ".join(value["expired"])),
            ("kept by grace", f"{value['young']:,} files" if value["young"] else ""),
            ("held", value["held"]),
            ("purges due", "; ".join(due)),
        ]
    )
