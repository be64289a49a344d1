"""Writing to standard output: one JSON document, or tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def printable(text: str) -> str:
    """Return ``text`` without what could steer a terminal: keys and errors are anybody's."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def document(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print labels and values, one pair a line; empty values are left out."""
    rows = [(label, printable(str(value))) for label, value in pairs if value not in (None, "")]
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        print(f"{label:<{width}}  {value}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, numbers to the right; nothing when there are no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [list(row) for row in rows]
    if not cells:
        return
    drawn = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) for row in cells)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(_cell(value) for value in row))
    # A file or a pipe has no width: lines stay whole for grep.
    width = None if sys.stdout.isatty() else 240
    Console(markup=False, highlight=False, emoji=False, width=width).print(drawn)


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))
