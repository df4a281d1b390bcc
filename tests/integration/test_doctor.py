"""The doctor finds what is wrong, one thing hiding no other, and names the cure."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from redis import Redis
from sqlalchemy.engine import make_url

from ops.doctor import examine, report
from ops.embedded.ports import free_port
from ops.errors import CommandError
from ops.servers import Finding, Verdict, require_servers
from tasks.contracts import QUEUES
from tests.conftest import Servers

GOOD, BAD, UNSET = Verdict.GOOD, Verdict.BAD, Verdict.UNSET


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str) -> None:
    """Settings that are all right, of a process that calls no provider."""
    monkeypatch.setenv("GOODSYARD_DATABASE_URL", database_url)
    monkeypatch.setenv("GOODSYARD_REDIS_URL", redis_url)


@pytest.fixture
def evicting_redis(redis_url: str) -> Iterator[str]:
    """A Redis that drops keys when it is full."""
    with Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield redis_url
        client.config_set("maxmemory-policy", "noeviction")


def test_servers_that_are_as_they_should_be_are_good() -> None:
    found = _examined()
    assert [found[what].verdict for what in ("Postgres", "Schema", "Redis")] == [GOOD] * 3
    assert found["GOODSYARD_GATEWAY_URL"].verdict is UNSET


def test_queues_without_a_worker_are_named(database_url: str) -> None:
    assert _examined()["Workers"].verdict is BAD
    with psycopg.connect(_plain(database_url)) as connection:
        connection.execute(
            "INSERT INTO goodsyard.worker (id, node, pid, queues) VALUES (%s, 'a@b', 1, %s)",
            [uuid4(), [queue for queue in QUEUES if queue != "payments"]],
        )
    assert "--queues payments`" in _examined()["Workers"].remedy


def test_jobs_that_nobody_hands_out_point_to_the_relay(database_url: str) -> None:
    with psycopg.connect(_plain(database_url)) as connection:
        connection.execute(
            "INSERT INTO goodsyard.job (tenant, kind, max_attempts, payload, run_at)"
            " VALUES (1, 'orders.process', 1, '{}', now() - interval '2 minutes')"
        )
    relay = _examined()["Relay"]
    assert relay.verdict is BAD
    assert relay.seen == "1 jobs have been due for more than a minute"


def test_a_database_without_our_tables_asks_for_the_migration(
    monkeypatch: pytest.MonkeyPatch, servers: Servers
) -> None:
    monkeypatch.setenv("GOODSYARD_DATABASE_URL", servers.postgres.url)
    schema = _examined()["Schema"]
    assert (schema.verdict, schema.remedy) == (BAD, "Run `goodsyard migrate`.")


def test_an_evicting_redis_is_bad(evicting_redis: str) -> None:
    found = _examined()["Redis"]
    assert found.verdict is BAD
    assert "noeviction" in found.remedy


def test_what_does_not_answer_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("GOODSYARD_DATABASE_URL", f"postgresql+psycopg://a:b@{nowhere}/c")
    monkeypatch.setenv("GOODSYARD_GATEWAY_URL", f"http://{nowhere}")
    monkeypatch.setenv("GOODSYARD_GATEWAY_KEY", "sk_test_12345678")
    found = _examined()
    verdicts = [found[what].verdict for what in ("Postgres", "Redis", "Gateway")]
    assert verdicts == [BAD, GOOD, BAD]


def test_a_bad_setting_is_named_with_a_good_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOODSYARD_REDIS_URL", "localhost")
    found = _examined()["GOODSYARD_REDIS_URL"]
    assert found.verdict is BAD
    assert "redis://" in found.remedy


def test_servers_that_will_not_do_are_refused_with_the_cure(
    database_url: str, redis_url: str, evicting_redis: str
) -> None:
    with pytest.raises(CommandError, match=r"Redis: .*allkeys-lru. Set maxmemory-policy"):
        require_servers(database_url, evicting_redis)


def test_a_report_has_a_line_a_finding_and_the_cure_below() -> None:
    findings = [Finding("Redis", BAD, "no answer", "Start it."), Finding("Schema", GOOD, "0002")]
    assert report(findings).splitlines() == [
        "BAD  Redis   no answer",
        "             Start it.",
        "ok   Schema  0002",
    ]


def _examined() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine()}


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
