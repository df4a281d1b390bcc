"""What ``goodsyard up`` runs and where: its own servers and secrets, except where settings say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import EmailStr, Field, PostgresDsn, RedisDsn, SecretStr

from goodsyard.settings import PREFIX, Settings, load
from ops.children import Program
from ops.embedded import PostgresServer, Server, ValkeyServer
from ops.embedded.ports import LOOPBACK, free_port, is_free
from ops.errors import CommandError
from ops.private_files import kept_secret, write_private

_FLOWER_PORT = 5555
_MAIL_FROM = "shop@goodsyard.example"
_CONCURRENCY = 2  # processes a worker node

# From SIGTERM to SIGKILL: a worker's hard limit for one job is 30 s, the rest finish what they
# answer or publish.
_WORKER_GRACE = 35.0
_GRACE = 10.0

S = TypeVar("S", bound=Server)


class PlanError(CommandError):
    """What was asked for can't be run here; the message says why and what to do."""


class _Given(Settings):
    """What a person may have set; `up` provides what is missing."""

    database_url: PostgresDsn | None = Field(
        None,
        examples=["postgresql+psycopg://goodsyard:PASSWORD@127.0.0.1:5432/goodsyard"],
        repr=False,
    )
    redis_url: RedisDsn | None = Field(
        None, examples=["redis://:PASSWORD@127.0.0.1:6379/0"], repr=False
    )
    secret_key: SecretStr | None = None
    gateway_url: str | None = None
    smtp_url: str | None = Field(None, repr=False)
    mail_from: EmailStr | None = Field(None, examples=["shop@example.com"])
    flower_basic_auth: SecretStr | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person asked ``goodsyard up`` for; a port that is None is chosen."""

    data_dir: Path
    port: int
    workers: int
    flower: bool
    flower_port: int | None


class Plan:
    """Everything that runs, with its address, settings and command.

    Raises:
        PlanError: a port is taken.
        ServerError: an embedded server can't run here.
    """

    def __init__(self, options: Options) -> None:
        given = load(_Given)
        self._api_port = _free_or_refused(options.port or free_port(), "--port")
        self.api_url = f"http://{LOOPBACK}:{self._api_port}"
        self._flower_port = _flower_port(options.flower_port)
        self.flower_url = f"http://{LOOPBACK}:{self._flower_port}"

        folder = options.data_dir
        self._secrets = folder / "secrets"
        self._secrets.mkdir(mode=0o700, exist_ok=True)
        self.logs = folder / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.rename(log.with_suffix(".log.old"))
        self.ready_file = folder / "ready.json"

        self.servers: list[Server] = []
        self.database_url = str(given.database_url or self._embed(PostgresServer, folder).url)
        self.redis_url = str(given.redis_url or self._embed(ValkeyServer, folder).url)

        self._sandbox_folder = folder / "sandbox"
        self._sandbox_folder.mkdir(mode=0o700, exist_ok=True)
        self._sandbox_ports = free_port(), free_port()
        http, smtp = self._sandbox_ports
        self.gateway_url = given.gateway_url or f"http://{LOOPBACK}:{http}"
        self.smtp_url = given.smtp_url or f"smtp://{LOOPBACK}:{smtp}"
        self._sandbox_is_gateway = given.gateway_url is None
        self._sandbox_is_used = given.gateway_url is None or given.smtp_url is None

        self.flower_auth = _revealed(given.flower_basic_auth) or (
            f"goodsyard:{self._secret('flower')}"
        )
        self._options = options
        self._given = given

    @property
    def admin_key(self) -> str | None:
        """The administrator's API key of an earlier run."""
        file = self._secrets / "admin-api-key"
        return file.read_text() if file.exists() else None

    @admin_key.setter
    def admin_key(self, key: str) -> None:
        write_private(self._secrets / "admin-api-key", key)

    @cached_property
    def environment(self) -> dict[str, str]:
        """All of the environment of Goodsyard's own processes."""
        given = self._given
        settings = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "SECRET_KEY": _revealed(given.secret_key) or self._secret("signing"),
            "GATEWAY_URL": self.gateway_url,
            "SMTP_URL": self.smtp_url,
            "MAIL_FROM": given.mail_from or _MAIL_FROM,
            "FLOWER_BASIC_AUTH": self.flower_auth,
            "API_URL": self.api_url,
        }
        if self._sandbox_is_gateway:
            settings["GATEWAY_KEY"] = f"sk_test_{self._secret('gateway')}"
            settings["GATEWAY_WEBHOOK_SECRET"] = f"whsec_{self._secret('gateway-events')}"
        # Unbuffered, so that a log ends with a process's last words.
        own = {PREFIX + name: value for name, value in settings.items()}
        return {**os.environ, "PYTHONUNBUFFERED": "1", **own}

    @property
    def migration(self) -> Program:
        """Brings the database to the newest schema, and ends."""
        return self._goodsyard("migrate", "migrate")

    @property
    def sandbox(self) -> list[Program]:
        """The gateway and mail sink for development, unless real ones are set for both."""
        http, smtp = self._sandbox_ports
        sandbox = self._goodsyard(
            "sandbox",
            "sandbox",
            *("--port", str(http), "--smtp-port", str(smtp)),
            *("--folder", str(self._sandbox_folder)),
            *(self._events_wanted if self._sandbox_is_gateway else ()),
        )
        return [sandbox] if self._sandbox_is_used else []

    @property
    def _events_wanted(self) -> list[str]:
        """What happens at the gateway without us; how our own calls ended, their answers say."""
        families = ("charge.dispute.", "charge.refund", "refund.")
        return [
            *("--events-url", f"{self.api_url}/v1/gateway/events"),
            *(argument for family in families for argument in ("--events-of", family)),
        ]

    @property
    def workers(self) -> list[Program]:
        """The worker nodes."""
        return [
            self._goodsyard(
                f"worker-{number}",
                "worker",
                *("--concurrency", str(_CONCURRENCY), "--hostname", f"worker-{number}@%h"),
                grace=_WORKER_GRACE,
            )
            for number in range(1, self._options.workers + 1)
        ]

    @property
    def relay(self) -> Program:
        """The process that hands due jobs to the workers."""
        return self._goodsyard("relay", "relay")

    @property
    def api(self) -> Program:
        """The HTTP API."""
        return self._goodsyard("api", "api", "--port", str(self._api_port))

    @property
    def flower(self) -> list[Program]:
        """The window on the workers, unless it is not wanted."""
        flower = self._goodsyard("flower", "flower", "--port", str(self._flower_port))
        return [flower] if self._options.flower else []

    def _goodsyard(self, name: str, *arguments: str, grace: float = _GRACE) -> Program:
        return Program(
            name=name,
            command=(sys.executable, "-m", "ops", *arguments),
            environment=self.environment,
            grace=grace,
        )

    def _embed(self, kind: type[S], folder: Path) -> S:
        server = kind(folder / kind.name)
        self.servers.append(server)
        return server

    def _secret(self, name: str) -> str:
        return kept_secret(self._secrets / name)


@contextmanager
def sole_use(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, made if need be, for this process alone; the kernel lets go of it.

    Raises:
        PlanError: another process holds it, or it can't be written to.
    """
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        file = (data_dir / "lock").open("a+")
    except OSError as error:
        raise PlanError(
            f"{data_dir} can't be used: {error.strerror}. Choose another folder with --data-dir."
        ) from error
    with file as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise PlanError(
                f"{data_dir} is in use by another `goodsyard up`, process {lock.read().strip()}. "
                "Nothing was changed. Stop that one, or choose another folder with --data-dir."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _free_or_refused(port: int, option: str) -> int:
    if not is_free(port):
        raise PlanError(
            f"Port {port} is taken by another program. Nothing was started. "
            f"Choose another with {option}, or 0 for any free one."
        )
    return port


def _flower_port(wanted: int | None) -> int:
    if wanted is None:
        return _FLOWER_PORT if is_free(_FLOWER_PORT) else free_port()
    return _free_or_refused(wanted or free_port(), "--flower-port")


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
