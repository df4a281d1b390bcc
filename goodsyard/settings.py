"""Settings from the environment and ``.env``: a missing or bad one stops the process by name."""

from __future__ import annotations

import sys
from typing import NoReturn, TypeVar

from pydantic import Field, PostgresDsn, RedisDsn, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "GOODSYARD_"


class Settings(BaseSettings):
    """Base of every group of settings; each process reads only the groups it uses."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )


class EngineSettings(Settings):
    """Where the queue's memory and its doorbell are: every process of Goodsyard needs them.

    Their addresses hold passwords, so they are in no ``repr``.
    """

    database_url: PostgresDsn = Field(
        description="PostgreSQL 18 or newer.",
        examples=["postgresql+psycopg://goodsyard:PASSWORD@127.0.0.1:5432/goodsyard"],
        repr=False,
    )
    redis_url: RedisDsn = Field(
        description="Redis 7.2 or Valkey 8, or newer: cache and wake-ups, and the broker.",
        examples=["redis://:PASSWORD@127.0.0.1:6379/0"],
        repr=False,
    )
    broker_url: RedisDsn | None = Field(
        default=None,
        description="Celery's broker, where it is another server than REDIS_URL.",
        examples=["redis://:PASSWORD@127.0.0.1:6379/1"],
        repr=False,
    )
    log_format: str = Field(
        default="console",
        pattern="^(json|console)$",
        description="Log lines for machines or for people.",
        examples=["json"],
    )

    @property
    def broker(self) -> str:
        """The address Celery connects to."""
        return str(self.broker_url or self.redis_url)


S = TypeVar("S", bound=Settings)


def load(group: type[S]) -> S:
    """Read a group of settings.

    Exits with status 2 and one line a setting, naming it and a good value, where any is missing or
    bad: a process that starts half-configured fails later and worse.
    """
    try:
        return group()
    except ValidationError as error:
        _explain(group, error)


def _explain(group: type[Settings], error: ValidationError) -> NoReturn:
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else ""
        field = group.model_fields.get(name)
        examples = (field.examples if field else None) or ["…"]
        what = "is missing" if problem["type"] == "missing" else f"is not usable: {problem['msg']}"
        sys.stderr.write(f"{PREFIX}{name.upper()} {what}. A good value: {examples[0]}\n")
    sys.exit(2)
