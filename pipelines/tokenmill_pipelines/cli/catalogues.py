"""What the commands about kinds, tokenizers and sample corpora say, as JSON documents."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import sys
import typing
from pathlib import Path
from typing import Any

import tokenmill_pipelines
from tokenmill.plugins import find, kinds
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import Tokenizer
from tokenmill.views import open_view
from tokenmill.views.base import ViewShape
from tokenmill_pipelines.cli.stores import describe_stream
from tokenmill_pipelines.samples.catalogue import catalogue
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import (
    ClusterConfig,
    IncrementConfig,
    LimitsConfig,
    ScheduleConfig,
    ShardsConfig,
    StoreConfig,
)
from tokenmill_schemas.strict import nearest

PACKAGE = "tokenmill.tokenizers"


#: The sections of a job that name a kind, and the packages that the kinds lie in.
SECTIONS = {name: f"tokenmill.{name}s" for name in ("source", "decoder", "view", "tokenizer")}

#: The sections that have no kinds, and what they are read into.
PLAIN: dict[str, type[Any]] = {
    "increment": IncrementConfig,
    "schedule": ScheduleConfig,
    "store": StoreConfig,
    "shards": ShardsConfig,
    "cluster": ClusterConfig,
    "limits": LimitsConfig,
}


def list_tokenizers() -> list[dict[str, str]]:
    """Return the kinds with the first line of what each module says; nothing is imported."""
    return list_kinds("tokenizer")


def list_kinds(section: str) -> list[dict[str, str]]:
    """Return the kinds that a section of a job may name; nothing is imported.

    Raises:
        JobError: there is no such section.
    """
    if section not in SECTIONS:
        there = [*SECTIONS, *PLAIN]
        raise JobError(f"there is no section {section!r}; {nearest(section, there)}")
    package = SECTIONS[section]
    return [{"kind": kind, "summary": _summary(f"{package}.{kind}")} for kind in kinds(package)]


def describe_kind(section: str, kind: str) -> dict[str, Any]:
    """Return what a kind says of itself, and the keys of its section.

    Raises:
        JobError: no such section or kind, or its library is not installed.
    """
    if section in PLAIN:
        raise JobError(f"has no kinds; `tokenmill kinds {section}` shows its keys", path=section)
    list_kinds(section)
    cls = find(SECTIONS[section], kind, path=f"{section}.kind")
    hints = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if f.init and f.name != "limits"]
    return {
        "section": section,
        "kind": kind,
        "summary": inspect.cleandoc(cls.__doc__ or ""),
        "keys": [_key(field, hints[field.name]) for field in fields],
    }


def describe_section(section: str) -> dict[str, Any]:
    """Return the keys of a section of `PLAIN`."""
    cls = PLAIN[section]
    hints = typing.get_type_hints(cls)
    return {
        "section": section,
        "summary": inspect.cleandoc(cls.__doc__ or "").replace("``", ""),
        "keys": [_key(field, hints[field.name]) for field in dataclasses.fields(cls)],
    }


def _summary(module: str) -> str:
    spec = importlib.util.find_spec(module)
    path = Path(spec.origin) if spec and spec.origin else None
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path else None
    return (doc or "").partition("\n")[0]


def describe_tokenizer(kind: str, variant: str | None, size: int) -> dict[str, Any]:
    """Return a kind's keys and variants, and the tokens of a ``size`` x ``size`` picture.

    Of what takes no pictures it is the tokens of the default view. Without ``variant`` the streams
    are left out where the tokenizer has no default one.

    Raises:
        JobError: no such kind or variant, or it does not take views of that size.
    """
    cls = find(PACKAGE, kind, path="tokenizer.kind")
    module, hints = sys.modules[cls.__module__], typing.get_type_hints(cls)
    described = {
        "kind": kind,
        "summary": inspect.cleandoc(module.__doc__ or cls.__doc__ or ""),
        "keys": [_key(field, hints[field.name]) for field in dataclasses.fields(cls)],
        "variants": list(getattr(module, "VARIANTS", ())),
    }
    try:
        tokenizer = open_tokenizer(kind, variant=variant)
        streams = tokenizer.spec(_shape(tokenizer, size)).streams
    except JobError:
        if variant is not None:
            raise
        return described | {"streams": []}
    return described | {
        "streams": [describe_stream(stream) for stream in streams],
        "default_view": tokenizer.default_view,
        "resources": dataclasses.asdict(tokenizer.resources),
    }


def _shape(tokenizer: Tokenizer, size: int) -> ViewShape | None:
    if "image" in tokenizer.takes:
        return size, size
    options = dict(tokenizer.default_view)
    shape: ViewShape | None = open_view(options.pop("kind"), options).shape
    return shape


def _key(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    default: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    required = default is dataclasses.MISSING
    return {"key": field.name, "type": _type(hint), "default": None if required else default}


def _type(hint: Any) -> str:
    """Return a type as a user writes it: the allowed values, or its name."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    is_plain = isinstance(hint, type) and typing.get_origin(hint) is None
    return hint.__name__ if is_plain else str(hint).replace("typing.", "")


def list_samples() -> list[dict[str, Any]]:
    """Return the corpora that can be fetched."""
    return [
        {
            "name": sample.name,
            "assets": sample.assets,
            "download_bytes": sample.download_bytes,
            "licence": sample.licence,
            "use": sample.use,
            "summary": sample.summary,
        }
        for sample in catalogue()
    ]


def shipped_samples() -> Path:
    """Return the folder of the sample corpus that lies beside the package in the repository.

    Raises:
        JobError: tokenmill was installed from a wheel, which has no pictures.
    """
    folder = Path(tokenmill_pipelines.__path__[0]).parent / "samples"
    if not (folder / "images.jsonl").is_file():
        raise JobError(
            "the sample corpus is in tokenmill's repository and not in this installation; "
            "`tokenmill samples fetch NAME` gets another one"
        )
    return folder
