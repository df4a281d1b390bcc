"""Says what is wrong with anything Goodsyard needs, and how to mend it; changes nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import TypeVar

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import HttpUrl, ValidationError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from commerce.notifications.mailer import MailSettings, port_of
from commerce.payments.gateway import GatewaySettings
from goodsyard.settings import PREFIX, EngineSettings, Settings
from ops.errors import one_line
from ops.migrate import alembic_config
from ops.servers import SECONDS_TO_ANSWER, Finding, Verdict, postgres, redis
from tasks.contracts import QUEUES

# A worker beats every second. The relay looks four times a second: a job that has been due this
# long, on a queue that isn't paused, waits for a relay or for room, which workers would make.
_SECONDS_OF_SILENCE = 15
_SECONDS_OVERDUE = 60

S = TypeVar("S", bound=Settings)


def examine() -> list[Finding]:
    """Look at everything, each thing on its own: one that is broken hides no other."""
    return [finding for look in (_engine, _gateway, _mail) for finding in look()]


def report(findings: Sequence[Finding]) -> str:
    """Return what was seen, a line each, and below it what to do."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        mark = {Verdict.GOOD: "ok ", Verdict.BAD: "BAD", Verdict.UNSET: "-  "}[finding.verdict]
        lines.append(f"{mark}  {finding.what:{width}}  {finding.seen}")
        if finding.remedy:
            lines.append(f"     {'':{width}}  {finding.remedy}")
    return "\n".join(lines)


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
        yield Finding("Database", Verdict.BAD, one_line(error), "Ask its log for the cause.")
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
    yield _reached("Mail server", url.host or "", port_of(url), f"{PREFIX}SMTP_URL")


def _reached(what: str, host: str, port: int, setting: str) -> Finding:
    try:
        socket.create_connection((host, port), SECONDS_TO_ANSWER).close()
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
        remedy = f"A good value: {example}"
        if problem["type"] != "missing":
            yield Finding(setting, Verdict.BAD, problem["msg"], remedy)
        elif group is EngineSettings:
            yield Finding(setting, Verdict.BAD, "is missing", remedy)
        else:
            yield Finding(setting, Verdict.UNSET, "is not set here; a worker needs it", remedy)
