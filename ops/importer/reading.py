"""Reads a file of orders in constant memory; each line becomes part of an order or is refused."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import BinaryIO, TypeAlias

import orjson

from ops.errors import CommandError

COLUMNS = ("order_key", "email", "currency", "sku", "quantity", "unit_amount", "payment_method")
OF_THE_ORDER = ("email", "currency", "payment_method")
"""Those that are the same in every row of an order."""

MAX_LINE_BYTES = 1024 * 1024  # far beyond any order the API takes
MAX_ROWS = 1000  # of one order; likewise

_BOM = b"\xef\xbb\xbf"
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class FormatError(CommandError):
    """The file can't be imported at all; the message says what it should look like."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where in the file something stands: its first line (from 1), its bytes, its text."""

    line: int
    size: int
    text: list[str]


@dataclass(frozen=True, slots=True)
class Draft:
    """An order to submit: the body of ``POST /v1/orders`` with its ``idempotency_key``.

    Where ``email`` is given, the body still lacks the ``user_id`` that belongs to it.
    """

    rows: Rows
    body: dict[str, object]
    email: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows that are no order, and why."""

    rows: Rows
    reason: str


Entry: TypeAlias = Draft | Refusal


def read_orders(path: Path) -> Iterator[Entry]:
    """Yield what the file holds, in its order: CSV by the suffix ``.csv``, else NDJSON.

    Raises:
        FormatError: a CSV file without the columns of the format.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        lines = _lines(file)
        if path.suffix.lower() == ".csv":
            yield from _csv_orders(lines)
        else:
            yield from map(_ndjson_order, lines)


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    size: int
    text: str
    fault: str | None = None

    def rows(self) -> Rows:
        return Rows(self.number, self.size, [self.text])


def _lines(file: BinaryIO) -> Iterator[_Line]:
    """Yield every line that isn't blank, without its end."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES):
        number += 1
        size = len(raw)
        fault = None
        if size == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            fault = f"it is longer than {MAX_LINE_BYTES} bytes"
            size += _skip_line(file)
        if number == 1:
            raw = raw.removeprefix(_BOM)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            text = raw.decode("utf-8", "replace")
            fault = fault or f"it is not UTF-8 ({error.reason} at byte {error.start})"
        if text.strip():
            yield _Line(number, size, text.rstrip("\r\n"), fault)


def _skip_line(file: BinaryIO) -> int:
    skipped = 0
    while raw := file.readline(MAX_LINE_BYTES):
        skipped += len(raw)
        if raw.endswith(b"\n"):
            break
    return skipped


def _ndjson_order(line: _Line) -> Entry:
    try:
        body = orjson.loads(line.text)
    except orjson.JSONDecodeError as error:
        return Refusal(line.rows(), line.fault or f"it is not JSON: {error}")
    fault = line.fault or _ndjson_fault(body)
    if fault is not None:
        return Refusal(line.rows(), fault)
    return Draft(line.rows(), body, body.pop("user_email", None))


def _ndjson_fault(body: object) -> str | None:
    if not isinstance(body, dict):
        return "it is no JSON object"
    if not isinstance(body.get("idempotency_key"), str):
        return "idempotency_key is missing or no string"
    if ("user_id" in body) == ("user_email" in body):
        return "it takes either user_id or user_email"
    if "user_email" in body and not isinstance(body["user_email"], str):
        return "user_email is no string"
    return None


@dataclass(frozen=True, slots=True)
class _Row:
    line: _Line
    key: str
    values: dict[str, str]
    fault: str | None


def _csv_orders(lines: Iterator[_Line]) -> Iterator[Entry]:
    _check_header(next(lines, None))
    with closing(_SeenKeys()) as seen:
        for key, group in groupby(map(_csv_row, lines), key=lambda row: row.key):
            rows = list(islice(group, MAX_ROWS + 1))
            if len(rows) > MAX_ROWS:
                yield _refused(rows, f"an order has at most {MAX_ROWS} rows")
                for row in group:
                    yield _refused([row], "it belongs to the order above")
            elif key and not seen.is_new(key):
                reason = f"order_key {key} came before: the rows of an order stand together"
                yield _refused(rows, reason)
            else:
                yield _csv_order(rows)


def _check_header(header: _Line | None) -> None:
    columns = header.text if header is not None else "nothing"
    if columns.replace(" ", "") != ",".join(COLUMNS):
        raise FormatError(
            f"A CSV file of orders begins with its columns, {','.join(COLUMNS)}. This one begins "
            f"with: {columns[:200]}. Nothing was imported."
        )


def _csv_row(line: _Line) -> _Row:
    # Line by line, so that a quote nobody closed costs one order and not the rest of the file.
    try:
        fields = next(csv.reader([line.text], strict=True))
    except csv.Error as error:
        return _broken_row(line, f"it is not CSV: {error}")
    if len(fields) != len(COLUMNS):
        return _broken_row(line, f"it has {len(fields)} fields instead of {len(COLUMNS)}")
    values = dict(zip(COLUMNS, fields, strict=True))
    return _Row(line, values["order_key"], values, line.fault or _row_fault(values))


def _broken_row(line: _Line, fault: str) -> _Row:
    """Keep a broken row with the order it seems to belong to, which must not go in without it."""
    key = line.text.split(",", 1)[0].strip('" ')
    return _Row(line, key, {}, line.fault or fault)


def _row_fault(values: dict[str, str]) -> str | None:
    if not values["order_key"]:
        return "order_key is empty"
    for name in ("quantity", "unit_amount"):
        if not _INTEGER.fullmatch(values[name]):
            return f"{name} is no integer: {values[name]!r}"
    return None


def _csv_order(rows: list[_Row]) -> Entry:
    for row in rows:
        if row.fault is not None:
            return _refused(rows, f"line {row.line.number}: {row.fault}")
    values = rows[0].values
    for row in rows[1:]:
        for name in OF_THE_ORDER:
            if row.values[name] != values[name]:
                return _refused(
                    rows, f"line {row.line.number}: another {name} than in the row above"
                )
    body: dict[str, object] = {
        "idempotency_key": values["order_key"],
        "currency": values["currency"],
        "lines": [
            {
                "sku": row.values["sku"],
                "quantity": int(row.values["quantity"]),
                "unit_amount": int(row.values["unit_amount"]),
            }
            for row in rows
        ],
        "payment_method": values["payment_method"],
    }
    return Draft(_place(rows), body, values["email"])


def _refused(rows: list[_Row], reason: str) -> Refusal:
    return Refusal(_place(rows), reason)


def _place(rows: Iterable[_Row]) -> Rows:
    lines = [row.line for row in rows]
    return Rows(lines[0].number, sum(line.size for line in lines), [line.text for line in lines])


class _SeenKeys:
    """The order keys of a file, in a temporary SQLite database: millions of them, few in memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def is_new(self, key: str) -> bool:
        """Tell whether this is the first time that this key is asked about."""
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def close(self) -> None:
        self._database.close()
