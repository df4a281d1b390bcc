"""Says what is wrong with anything Goodsyard needs, and how to mend it; changes nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import psycopg
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import HttpUrl, ValidationError
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from commerce.notifications.mailer import MailSettings
from commerce.payments.gateway import GatewaySettings
from goodsyard.settings import PREFIX, EngineSettings, Settings
from ops.errors import CommandError
from ops.migrate import alembic_config
from tasks.contracts import QUEUES

OLDEST_POSTGRES = 18
OLDEST_REDIS = (7, 2)
OLDEST_VALKEY = (8,)

_SECONDS_TO_ANSWER = 3
# A worker beats every second. The relay looks four times a second: a job that has been due this
# long, on a queue that isn't paused, waits for a relay or for room, which workers would make.
_SECONDS_OF_SILENCE = 15
_SECONDS_OVERDUE = 60

S = TypeVar("S", bound=Settings)


class Verdict(StrEnum):
    """What a look showed; only ``BAD`` makes the doctor's exit status 1."""

    GOOD = "good"
    BAD = "bad"
    UNSET = "not set here"


@dataclass(frozen=True)
class Finding:
    """What one look showed.

    Attributes:
        what: what was looked at.
        verdict: whether it is as it should be.
        seen: what there is.
        remedy: what to do; empty where nothing is to be done.
    """

    what: str
    verdict: Verdict
    seen: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything, each thing on its own: one that is broken hides no other."""
    return [finding for look in (_engine, _gateway, _mail) for finding in look()]


def require_servers(database_url: str, redis_url: str) -> None:
    """Make sure that both servers answer and are new enough.

    Raises:
        CommandError: one doesn't or isn't; says how to mend it.
    """
    for finding in (postgres(database_url), redis(redis_url)):
        if finding.verdict is Verdict.BAD:
            raise CommandError(f"{finding.what}: {finding.seen}. {finding.remedy}")


def postgres(url: str) -> Finding:
    """Look whether Postgres answers and is new enough."""
    what = "Postgres"
    try:
        with psycopg.connect(
            make_url(url).set(drivername="postgresql").render_as_string(hide_password=False),
            connect_timeout=_SECONDS_TO_ANSWER,
        ) as connection:
            version = connection.info.server_version
    except psycopg.OperationalError as error:
        remedy = f"Start it, or set {PREFIX}DATABASE_URL to one that runs."
        return Finding(what, Verdict.BAD, f"no answer: {_one_line(error)}", remedy)
    major, minor = divmod(version, 10_000)
    seen = f"{major}.{minor} at {_address(url)}"
    if major < OLDEST_POSTGRES:
        return Finding(what, Verdict.BAD, seen, f"Use PostgreSQL {OLDEST_POSTGRES} or newer.")
    return Finding(what, Verdict.GOOD, seen)


def redis(url: str) -> Finding:
    """Look whether Redis or Valkey answers, is new enough and loses no message when full."""
    what = "Redis"
    try:
        with Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=_SECONDS_TO_ANSWER,
            socket_connect_timeout=_SECONDS_TO_ANSWER,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            info = client.info()
    except (RedisError, OSError) as error:
        remedy = f"Start it, or set {PREFIX}REDIS_URL to one that runs."
        return Finding(what, Verdict.BAD, f"no answer: {_one_line(error)}", remedy)
    kind, oldest = (
        ("valkey", OLDEST_VALKEY) if "valkey_version" in info else ("redis", OLDEST_REDIS)
    )
    version = str(info[f"{kind}_version"])
    seen = f"{kind} {version} at {_address(url)}"
    if tuple(map(int, version.split(".")[:2])) < oldest:
        return Finding(what, Verdict.BAD, seen, "Use Redis 7.2, Valkey 8, or newer.")
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        remedy = "Set maxmemory-policy noeviction: when full, it would drop messages in silence."
        return Finding(what, Verdict.BAD, f"{seen}, {policy}", remedy)
    return Finding(what, Verdict.GOOD, seen)


def _engine() -> Iterator[Finding]:
    settings = _read(EngineSettings)
    if isinstance(settings, list):
        yield from settings
        return
    url = str(settings.database_url)
    database = postgres(url)
    yield database
    if database.verdict is Verdict.GOOD:
        yield from _database(url)
    for address in dict.fromkeys((str(settings.redis_url), settings.broker)):
        yield redis(address)


def _database(url: str) -> Iterator[Finding]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            schema = _schema(connection)
            yield schema
            if schema.verdict is Verdict.GOOD:
                yield _workers(connection)
                yield _relay(connection)
    except SQLAlchemyError as error:
        yield Finding("Database", Verdict.BAD, _one_line(error), "Ask its log for the cause.")
    finally:
        engine.dispose()


def _schema(connection: Connection) -> Finding:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return Finding("Schema", Verdict.GOOD, f"revision {current}")
    seen = f"revision {current}, this program's is {head}" if current else "nothing there yet"
    return Finding("Schema", Verdict.BAD, seen, "Run `goodsyard migrate`.")


_LIVE_QUEUES = text("""
    SELECT queue, count(*) AS processes FROM goodsyard.worker, unnest(queues) queue
     WHERE beat_at > now() - make_interval(secs => :silence) GROUP BY queue
""")


def _workers(connection: Connection) -> Finding:
    rows = connection.execute(_LIVE_QUEUES, {"silence": _SECONDS_OF_SILENCE})
    live = {row.queue: row.processes for row in rows}
    seen = ", ".join(f"{queue} {live.get(queue, 0)}" for queue in QUEUES)
    idle = [queue for queue in QUEUES if queue not in live]
    if idle:
        remedy = f"Start some: `goodsyard worker --queues {','.join(idle)}`."
        return Finding("Workers", Verdict.BAD, seen, remedy)
    return Finding("Workers", Verdict.GOOD, seen)


_OVERDUE = text("""
    SELECT count(*) FROM goodsyard.job
     WHERE state = 'waiting' AND run_at < now() - make_interval(secs => :overdue)
""")


def _relay(connection: Connection) -> Finding:
    overdue = connection.execute(_OVERDUE, {"overdue": _SECONDS_OVERDUE}).scalar_one()
    if overdue:
        seen = f"{overdue} jobs have been due for more than a minute"
        remedy = "See that `goodsyard relay` runs, and `goodsyard queues list` for paused queues."
        return Finding("Relay", Verdict.BAD, seen, remedy)
    return Finding("Relay", Verdict.GOOD, "no job is overdue")


def _gateway() -> Iterator[Finding]:
    settings = _read(GatewaySettings)
    if isinstance(settings, list):
        yield from settings
        return
    url: HttpUrl = settings.gateway_url
    yield _reached("Gateway", url.host or "", url.port or 443, f"{PREFIX}GATEWAY_URL")


def _mail() -> Iterator[Finding]:
    settings = _read(MailSettings)
    if isinstance(settings, list):
        yield from settings
        return
    url = settings.smtp_url
    yield _reached("Mail server", url.host or "", url.port or 25, f"{PREFIX}SMTP_URL")


def _reached(what: str, host: str, port: int, setting: str) -> Finding:
    try:
        socket.create_connection((host, port), _SECONDS_TO_ANSWER).close()
    except OSError as error:
        remedy = f"See that it runs, that the way to it is open, and {setting}."
        return Finding(what, Verdict.BAD, f"{host}:{port} can't be reached: {error}", remedy)
    return Finding(what, Verdict.GOOD, f"reached at {host}:{port}")


def _read(group: type[S]) -> S | list[Finding]:
    """Read a group of settings; those of a provider may be unset where no worker runs."""
    try:
        return group()
    except ValidationError as error:
        return [*_settings_findings(group, error)]


def _settings_findings(group: type[Settings], error: ValidationError) -> Iterator[Finding]:
    for problem in error.errors():
        name = str(problem["loc"][0])
        setting = f"{PREFIX}{name.upper()}"
        example = (group.model_fields[name].examples or ["…"])[0]
        if problem["type"] == "missing" and group is not EngineSettings:
            yield Finding(setting, Verdict.UNSET, "a worker needs it", f"A good value: {example}")
        else:
            yield Finding(setting, Verdict.BAD, problem["msg"], f"A good value: {example}")


def _address(url: str) -> str:
    parsed = make_url(url)
    return f"{parsed.host}:{parsed.port}" if parsed.port else str(parsed.host)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
