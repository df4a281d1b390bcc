"""A file of JSON lines that only grows: what was appended survives the process that did it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import orjson

from ops.errors import CommandError


class JournalError(CommandError):
    """The journal can't be used as it stands; the message names the file and what to do."""


class Journal:
    """One process's hold on one journal file.

    Every append is a single ``write`` to a file opened for appending, handed to the operating
    system before the call returns: a killed process leaves whole lines, and at most one torn line
    at the very end, which the next start cuts off because nobody was ever answered from it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, creating it, and lock it against a second writer.

        Raises:
            JournalError: another process holds it.
        """
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise JournalError(
                f"{path} is held by another sandbox. Stop that one, or give this one a data "
                "directory of its own."
            ) from None
        self._end = self._cut_torn_tail()

    def records(self) -> Iterator[tuple[int, dict[str, object]]]:
        """Yield every record from the beginning, with the offset ``record_at`` finds it by.

        Raises:
            JournalError: a line is not a JSON object, which no crash of ours leaves behind.
        """
        offset = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield offset, self._parse(line, number)
                offset += len(line)

    def append(self, record: object) -> int:
        """Write one record (what orjson can serialize) and return its offset."""
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        offset = self._end
        written = os.write(self._fd, line)
        if written != len(line):
            os.ftruncate(self._fd, offset)
            raise OSError(f"{self._path}: the disk took {written} of {len(line)} bytes")
        self._end += written
        return offset

    def record_at(self, offset: int) -> dict[str, object]:
        """Read one record again."""
        with self._path.open("rb") as lines:
            lines.seek(offset)
            return self._parse(lines.readline(), number=None)

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)

    def _cut_torn_tail(self) -> int:
        size = os.fstat(self._fd).st_size
        with self._path.open("rb") as file:
            end = size
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
        if end < size:
            os.ftruncate(self._fd, end)
        return end

    def _parse(self, line: bytes, number: int | None) -> dict[str, object]:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            where = f"line {number}" if number else "a line"
            raise JournalError(
                f"{self._path}, {where}, is not JSON ({error}). Nothing was changed; move the file "
                "away to start with an empty log."
            ) from error
        if not isinstance(record, dict):
            raise JournalError(f"{self._path} holds something that is not a record: {line[:80]!r}")
        return record
