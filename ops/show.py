"""Results as tables for people or as JSON for programs, always on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Ids stay whole, to be copied: a terminal that is too narrow wraps the line itself.
_WIDE = 10_000


def as_json(value: object) -> None:
    """Print one line of JSON."""
    sys.stdout.write(orjson.dumps(value).decode() + "\n")


def as_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Print a row for each mapping, with these of its values."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(escape(_text(row.get(column))) for column in columns))
    Console(highlight=False, width=_WIDE).print(table)


def as_fields(value: Mapping[str, object]) -> None:
    """Print a line for each value of one mapping."""
    as_table(("name", "value"), [{"name": name, "value": it} for name, it in value.items()])


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()
