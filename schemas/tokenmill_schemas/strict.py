"""Strict building of dataclasses from mappings: every key known, every value of its type.

An unknown key is an error that names its dotted path and the nearest valid key, because a typing
slip in a job file must never run as if it had not been written.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tokenmill_schemas.errors import JobError

T = TypeVar("T")


def nearest(name: str, names: list[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest of ``names``, else the list of them."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(sorted(names))}"


def build(cls: type[T], values: Mapping[str, Any], *, path: str) -> T:
    """Return ``cls(**values)`` after checking keys and types against the dataclass ``cls``.

    ``path`` is where ``values`` stand; "" for the top of a file, whose keys have no prefix.

    Raises:
        JobError: a key is unknown or missing, or a value has another type; names the dotted path.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise JobError(f"unknown key; {nearest(key, list(fields))}", path=_below(path, key))
    checked = {k: convert(hints[k], v, path=_below(path, k)) for k, v in values.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in checked:
            raise JobError("is required", path=_below(path, name))
    try:
        return cls(**checked)
    except ValueError as error:
        raise JobError(str(error), path=path) from error


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def convert(hint: Any, value: Any, *, path: str) -> Any:
    """Return ``value`` as the type ``hint`` says: lists become tuples, ints may stand for floats.

    Raises:
        JobError: ``value`` is of another type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        return _literal(args, value, path)
    if origin in (typing.Union, types.UnionType):
        return _union(args, value, path)
    if origin is tuple:
        return _tuple(args, value, path)
    if origin is dict or hint is dict:
        return _dict(args, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise JobError(f"must be a table, got {value!r}", path=path)
        return build(hint, value, path=path)
    return _scalar(hint, value, path)


def _literal(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value not in args:
        raise JobError(
            f"is {value!r}; {nearest(str(value), [str(a) for a in args])}"
            if isinstance(value, str)
            else f"is {value!r}; allowed: {', '.join(map(str, args))}",
            path=path,
        )
    return value


def _union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    error = JobError(f"is {value!r}", path=path)
    for arg in args:
        if arg is type(None):
            continue
        try:
            return convert(arg, value, path=path)
        except JobError as this:
            error = this
    raise error


def _tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise JobError(f"must be a list, got {value!r}", path=path)
    if len(args) == 2 and args[1] is Ellipsis:
        hints = [args[0]] * len(value)
    elif len(args) == len(value):
        hints = list(args)
    else:
        raise JobError(f"must have {len(args)} entries, got {len(value)}", path=path)
    return tuple(
        convert(h, v, path=f"{path}[{i}]")
        for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )


def _dict(args: tuple[Any, ...], value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise JobError(f"must be a table, got {value!r}", path=path)
    hint = args[1] if len(args) == 2 else Any
    return {str(k): convert(hint, v, path=f"{path}.{k}") for k, v in value.items()}


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_bool = isinstance(value, bool)
    if isinstance(value, hint) and (hint is bool) == is_bool:
        return value
    raise JobError(f"must be {hint.__name__}, got {value!r}", path=path)
