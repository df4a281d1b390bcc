"""One Postgres and one Valkey for all systems, each of whose runs finds them as if they were new.

Postgres keeps every default that makes a commit durable; Valkey keeps nothing, as a broker's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis
from psycopg import sql
from sqlalchemy.engine import make_url
from typing_extensions import override

from ops.children import Program
from ops.embedded import PostgresServer, ValkeyServer

# A quarter of what a machine with 2 GB to spare would give it; the embedded default is for desks.
_SHARED_BUFFERS = "512MB"

_EMPTY = "template0"


class _Postgres(PostgresServer):
    """The embedded one, with the memory of a small server's."""

    @property
    @override
    def program(self) -> Program:
        program = super().program
        return replace(
            program, command=(*program.command, "-c", f"shared_buffers={_SHARED_BUFFERS}")
        )


@dataclass(frozen=True, slots=True)
class Ground:
    """What one run has to itself.

    Attributes:
        postgres: a database, as a libpq URL.
        redis: an empty Valkey.
        folder: an empty folder, its working directory.
        marks: an empty folder for ``benchmarks.marks``.
    """

    postgres: str
    redis: str
    folder: Path
    marks: Path

    @property
    def sqlalchemy(self) -> str:
        """The database, as SQLAlchemy and our settings name it."""
        return _sqlalchemy(self.postgres)


class Servers:
    """Both servers, up within ``with``, in a folder whose former content is removed."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, wholly its own."""
        self._folder = folder
        self._stack = ExitStack()
        self._numbers = count(1)

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._postgres = self._stack.enter_context(_Postgres(self._folder / "postgres"))
        self._valkey = self._stack.enter_context(ValkeyServer(self._folder / "valkey"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def ground(self, template: str = _EMPTY) -> Iterator[Ground]:
        """Give a run a database made from ``template``, which is gone afterwards."""
        name = f"run_{next(self._numbers)}"
        self.create(name, template)
        try:
            yield self.ground_on(name)
        finally:
            self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    def ground_on(self, database: str) -> Ground:
        """Return a run's ground on a database that stays; the rest of it is empty."""
        folder = self._folder / f"ground_{next(self._numbers)}"
        marks = folder / "marks"
        marks.mkdir(parents=True)
        with redis.Redis.from_url(self._valkey.url) as client:
            client.flushall()
        # What the last run left to be written shall not be written in this one's time.
        with self._session() as session:
            session.execute("CHECKPOINT")
        return Ground(self.url(database), self._valkey.url, folder, marks)

    def create(self, database: str, template: str = _EMPTY) -> None:
        """Make a database that stays until the servers end."""
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE {}"), database, template)

    def url(self, database: str) -> str:
        """Return the libpq URL of a database."""
        url = make_url(self._postgres.url).set(drivername="postgresql", database=database)
        return url.render_as_string(hide_password=False)

    def _administer(self, statement: sql.SQL, *names: str) -> None:
        with self._session() as session:
            session.execute(statement.format(*map(sql.Identifier, names)))

    def _session(self) -> psycopg.Connection:
        return psycopg.connect(self.url("postgres"), autocommit=True)


def _sqlalchemy(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
