"""What is to be judged, from the words of a command: tokenizers, data, a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenmill.plugins import open_operator
from tokenmill.tokenizers.base import Tokenizer
from tokenmill_pipelines.assemble import Operators, open_operators
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import (
    PATH_KEYS,
    Job,
    override,
    parse_job,
    read_table,
    resolve,
    resolve_paths,
)

#: The sections of a job that a judgement reads; the others are of runs.
SECTIONS = ("tokenizer", "source", "view", "decoder", "limits", "storage")
#: Endings of files that list assets, and of those that hold them; anything else is a folder.
LISTINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst"),
    "parquet": (".parquet",),
    "tars": (".tar",),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Tokenizers by their names in a report, and what reads the data that they are judged on."""

    tokenizers: Mapping[str, Tokenizer]
    operators: Operators
    job: Job
    data: str


def open_subject(
    tokenizers: Sequence[str],
    data: Sequence[str],
    *,
    view: str = "",
    overrides: Sequence[str] = (),
    settings: Settings | None = None,
) -> Subject:
    """Open tokenizers, each a kind or a file with a section ``[tokenizer]``, and their data.

    The first one's view is everybody's: its file's, else its own default. ``data`` are folders,
    files, globs or listings, or one job file whose section ``[source]`` is meant; without any the
    first tokenizer's file says. ``overrides`` (``tokenizer.variant=video``) change every one.

    Raises:
        JobError: a file, a section or a key is wrong, or nothing says where the data are.
    """
    settings = settings or Settings()
    tables = [_table(name, overrides) for name in tokenizers]
    if not tables:
        raise JobError("name a tokenizer")
    table = tables[0]
    if data:
        table["source"] = _source(data, settings.column)
        override(table, _of("source", overrides), PATH_KEYS)
    if "source" not in table:
        raise JobError("say where pictures, clips or shapes are: --data FOLDER_OR_LISTING")
    if view:
        table["view"] = {"kind": view}
        override(table, _of("view", overrides), PATH_KEYS)
    named = _named(tokenizers, tables)
    table["view"] = _view(table.get("view", {}), next(iter(named.values())))
    job = _job(table)
    return Subject(named, open_operators(job), job, ", ".join(data) or tokenizers[0])


def _of(section: str, overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in overrides if one.startswith(f"{section}."))


def _table(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the sections of a tokenizer's file with absolute paths, or of a plain kind."""
    if not name.endswith(".toml"):
        table: dict[str, Any] = {"tokenizer": {"kind": name}}
        override(table, tuple(overrides), PATH_KEYS)
        return _known(table)
    read = read_table(name, overrides=tuple(overrides), paths=PATH_KEYS)
    if "tokenizer" not in read:
        raise JobError(f"{name} has no section [tokenizer]", path="tokenizer")
    return _resolved({key: read[key] for key in SECTIONS if key in read}, name)


def _known(table: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(table) - set(SECTIONS))
    if unknown:
        raise JobError(f"--set changes {', '.join(SECTIONS)}; got {unknown}")
    return table


def _resolved(table: dict[str, Any], file: str) -> dict[str, Any]:
    """Return sections whose relative paths were meant from a file's folder."""
    base = str(Path(file).resolve().parent)
    for dotted in PATH_KEYS:
        section, _, key = dotted.partition(".")
        if key in table.get(section, {}):
            table[section] = table[section] | {key: resolve(table[section][key], base)}
    return table


def _source(data: Sequence[str], column: str) -> dict[str, Any]:
    if len(data) == 1 and data[0].endswith(".toml"):
        read = read_table(data[0], overrides=(), paths=PATH_KEYS)
        if "source" not in read:
            raise JobError(f"{data[0]} has no section [source]", path="source")
        source: dict[str, Any] = _resolved({"source": read["source"]}, data[0])["source"]
        return source
    kinds = {_kind(one) for one in data}
    if len(kinds) > 1:
        text = f"--data names {' and '.join(sorted(kinds))}; use a job file for data of several"
        raise JobError(text, path="source")
    kind = kinds.pop()
    urls = resolve(list(data), str(Path.cwd()))
    # A field that no line has is an empty column; a Parquet file has to have it.
    return {"kind": kind, "urls": urls} | ({"columns": [column]} if kind == "jsonl" else {})


def _kind(path: str) -> str:
    found = (kind for kind, endings in LISTINGS.items() if path.endswith(endings))
    return next(found, "files")


def _named(names: Sequence[str], tables: Sequence[Mapping[str, Any]]) -> dict[str, Tokenizer]:
    found: dict[str, Tokenizer] = {}
    for given, table in zip(names, tables, strict=True):
        options = dict(table["tokenizer"])
        kind = options.pop("kind", None)
        if not isinstance(kind, str):
            raise JobError("must be a table with a 'kind'", path="tokenizer")
        tokenizer = open_operator("tokenmill.tokenizers", kind, options, path="tokenizer")
        name = " ".join(filter(None, (kind, str(options.get("variant", "")))))
        if name in found:
            name = f"{name} ({Path(given).stem})"
        if name in found:
            raise JobError(f"{given} is named twice", path="tokenizer")
        found[name] = cast("Tokenizer", tokenizer)
    return found


def _view(section: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the view's section; keys without a kind change the tokenizer's own default."""
    return dict(section) if "kind" in section else {**tokenizer.default_view, **section}


def _job(table: Mapping[str, Any]) -> Job:
    """Return the sections as a job, which checks them; its store is never opened."""
    return resolve_paths(parse_job({**table, "name": "judge", "store": {"uri": "memory://judge"}}))
