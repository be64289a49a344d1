"""Finding an operator by its ``kind``: a module of ours, or anybody's ``package.module:Class``.

``kind = "files"`` of a source means the module ``tokenmill.sources.files`` and the class that its
``PLUGIN`` names. There is no registry to edit and nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import build, nearest


def kinds(package: str) -> list[str]:
    """Return the kinds that ``package`` (``tokenmill.sources``, ...) offers, sorted.

    A module offers a kind when it says ``PLUGIN``; modules are read, not imported.
    """
    module = importlib.import_module(package)
    names = (info.name for info in pkgutil.iter_modules(module.__path__) if not info.ispkg)
    return sorted(name for name in names if _offers(f"{package}.{name}"))


@cache
def _offers(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    loader = spec.loader if spec else None
    source = loader.get_source(name) if isinstance(loader, importlib.abc.InspectLoader) else None
    return "\nPLUGIN" in (source or "")


def find(package: str, kind: str, *, path: str) -> type[Any]:
    """Return the class for ``kind`` in ``package``, or the class that ``module:Class`` names.

    Raises:
        JobError: there is no such kind, or its module lacks an extra that is not installed.
    """
    name, colon, attribute = kind.partition(":")
    module_name = name if colon else f"{package}.{name}"
    if not colon and name not in kinds(package):
        raise JobError(f"unknown kind {kind!r}; {nearest(kind, kinds(package))}", path=path)
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, attribute if colon else "PLUGIN")
    except ImportError as error:
        hint = "; install it, or name its folder in PYTHONPATH" if error.name == module_name else ""
        lacking = f" needs {error.name!r}" if error.name else ""
        text = f"kind {kind!r}{lacking}: {error}{hint}"
        raise JobError(text, path=path) from error
    except AttributeError as error:
        raise JobError(f"{module_name} has no class {attribute!r}", path=path) from error
    if not isinstance(found, type):
        raise JobError(f"{kind!r} is not a class", path=path)
    return found


def open_operator(package: str, kind: str, options: Mapping[str, Any], *, path: str) -> Any:
    """Return the operator of ``kind`` with its dataclass fields set from ``options``, strictly.

    Raises:
        JobError: unknown kind, unknown key, or a value of the wrong type.
    """
    return build(find(package, kind, path=f"{path}.kind"), options, path=path)
