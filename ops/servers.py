"""Whether Postgres and Redis answer and will do, in words that say what to mend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import psycopg
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.engine import make_url

from goodsyard.settings import PREFIX
from ops.errors import CommandError, one_line

# uuidv7() came with 18.
OLDEST_POSTGRES = 18
OLDEST_REDIS = (7, 2)
OLDEST_VALKEY = (8,)

SECONDS_TO_ANSWER = 3


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


def require_servers(database_url: str, redis_url: str) -> None:
    """Make sure that both servers answer and are new enough.

    Raises:
        CommandError: one doesn't or isn't; says how to mend it.
    """
    require_postgres(database_url)
    _require(redis(redis_url))


def require_postgres(url: str) -> None:
    """Make sure that Postgres answers and is new enough.

    Raises:
        CommandError: it doesn't or isn't; says how to mend it.
    """
    _require(postgres(url))


def _require(finding: Finding) -> None:
    if finding.verdict is Verdict.BAD:
        raise CommandError(f"{finding.what}: {finding.seen}. {finding.remedy}")


def postgres(url: str) -> Finding:
    """Look whether Postgres answers and is new enough."""
    what = "Postgres"
    try:
        with psycopg.connect(
            make_url(url).set(drivername="postgresql").render_as_string(hide_password=False),
            connect_timeout=SECONDS_TO_ANSWER,
        ) as connection:
            version = connection.info.server_version
    except psycopg.OperationalError as error:
        remedy = f"Start it, or set {PREFIX}DATABASE_URL to one that runs."
        return Finding(what, Verdict.BAD, f"no answer: {one_line(error)}", remedy)
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
            socket_timeout=SECONDS_TO_ANSWER,
            socket_connect_timeout=SECONDS_TO_ANSWER,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            info = client.info()
    except (RedisError, OSError) as error:
        remedy = f"Start it, or set {PREFIX}REDIS_URL to one that runs."
        return Finding(what, Verdict.BAD, f"no answer: {one_line(error)}", remedy)
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


def _address(url: str) -> str:
    parsed = make_url(url)
    return f"{parsed.host}:{parsed.port}" if parsed.port else str(parsed.host)
