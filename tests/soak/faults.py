"""The faults of a soak: each does its harm, undoes it where somebody would, and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TypeAlias

import psycopg
from celery import Celery

from goodsyard.messages import VERSION
from tasks.contracts import ALL, QUEUES
from tests.harness.programs import Running
from tests.soak.site import Site

Fault: TypeAlias = Callable[[Site], None]

_never = Event()
_QUEUE_OF = {contract.kind: contract.policy.queue for contract in ALL}


def _for_a_while(site: Site, least: float, most: float) -> None:
    """Let a fault last: how long an outage takes is part of what is drawn."""
    _never.wait(site.chance.uniform(least, most))


@contextmanager
def _frozen(running: Running) -> Iterator[None]:
    running.freeze()
    try:
        yield
    finally:
        running.thaw()


# Processes


def kill_a_worker_node(site: Site) -> None:
    """SIGKILL to a node and all its processes."""
    site.chance.choice(site.workers).kill()
    site.replace_the_ended()


def kill_a_worker_process(site: Site) -> None:
    """SIGKILL to one of a node's processes, which the node replaces."""
    os.kill(site.chance.choice(site.chance.choice(site.workers).offspring), signal.SIGKILL)


def freeze_a_worker(site: Site) -> None:
    """SIGSTOP for longer than a silent worker is believed in."""
    with _frozen(site.chance.choice(site.workers)):
        _for_a_while(site, 6, 20)


def restart_a_worker(site: Site) -> None:
    """SIGTERM, as a rollout sends it."""
    _restart(site.chance.choice(site.workers))


def kill_a_relay(site: Site) -> None:
    """SIGKILL to a relay."""
    site.chance.choice(site.relays).kill()
    site.replace_the_ended()


def freeze_a_relay(site: Site) -> None:
    """SIGSTOP: perhaps between its commit and its message."""
    with _frozen(site.chance.choice(site.relays)):
        _for_a_while(site, 3, 12)


def kill_an_api(site: Site) -> None:
    """SIGKILL to an API."""
    site.chance.choice(site.apis).kill()
    site.replace_the_ended()


def restart_an_api(site: Site) -> None:
    """SIGTERM, as a rollout sends it."""
    _restart(site.chance.choice(site.apis))


def _restart(running: Running) -> None:
    running.terminate()
    running.until_ended()
    running.start()


# Redis


def restart_redis_empty(site: Site) -> None:
    """SIGKILL; nothing is kept on disk."""
    os.kill(site.valkey.pid, signal.SIGKILL)
    site.valkey.stop()
    _for_a_while(site, 0, 5)
    site.valkey.start()


def flush_redis(site: Site) -> None:
    """FLUSHALL: messages, epoch and caches."""
    with site.redis() as redis:
        redis.flushall()


def lose_the_queues(site: Site) -> None:
    """DEL of the queues alone, as a failover that lost its tail does: the epoch is still there."""
    with site.redis() as redis:
        redis.delete(*QUEUES)


def freeze_redis(site: Site) -> None:
    """SIGSTOP: connections stay open and say nothing."""
    os.kill(site.valkey.pid, signal.SIGSTOP)
    _for_a_while(site, 2, 8)
    os.kill(site.valkey.pid, signal.SIGCONT)


def reset_redis_connections(site: Site) -> None:
    """RST to every connection to Redis."""
    site.to_valkey.reset()


def cut_off_redis(site: Site) -> None:
    """A black hole before Redis."""
    with site.to_valkey.trouble() as line:
        line.fall_silent()
        _for_a_while(site, 2, 8)


def slow_redis(site: Site) -> None:
    """A tenth of a second more each way."""
    with site.to_valkey.trouble() as line:
        line.slow(delay=0.1)
        _for_a_while(site, 3, 8)


def send_copies(site: Site) -> None:
    """Five copies of the message about each job under way."""
    rows = site.shop.rows(
        "SELECT kind, id::text, fence FROM goodsyard.job"
        " WHERE state IN ('dispatched', 'running') LIMIT 500"
    )
    with Celery(broker=site.valkey.url, set_as_current=False) as stranger:
        for row in rows:
            job = {"v": VERSION, "jobs": [(row["id"], row["fence"])]}
            for _ in range(5):
                queue = _QUEUE_OF[row["kind"]]
                stranger.send_task(row["kind"], kwargs=job, queue=queue, ignore_result=True)
    site.copies += 5 * len(rows)


def send_garbage(site: Site) -> None:
    """What is no message: kombu itself falls over it, and a supervisor starts the worker again."""
    with site.redis() as redis:
        redis.lpush(site.chance.choice(QUEUES), b"\x00\xff not JSON at all")


# Postgres


def crash_postgres(site: Site) -> None:
    """An immediate shutdown: it recovers from its log."""
    os.kill(site.postgres.pid, signal.SIGQUIT)
    site.postgres.stop()
    site.postgres.start()


def kill_postgres(site: Site) -> None:
    """SIGKILL to the postmaster."""
    os.kill(site.postgres.pid, signal.SIGKILL)
    site.postgres.stop()
    _for_a_while(site, 0, 5)
    site.postgres.start()


def end_sessions(site: Site) -> None:
    """Every session of Goodsyard's ended by an administrator, three times over."""
    for _ in range(3):
        site.shop.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'goodsyard%%'"
        )
        _for_a_while(site, 0.1, 1)


def lose_answers_to_commits(site: Site) -> None:
    """Commits that happen, and whose answer never arrives."""
    with site.to_postgres.trouble() as line:
        line.cut_instead_of(times=site.chance.randint(1, 10))
        _for_a_while(site, 1, 3)


def lose_commits(site: Site) -> None:
    """Commits that never arrive."""
    with site.to_postgres.trouble() as line:
        line.cut_before(times=site.chance.randint(1, 10))
        _for_a_while(site, 1, 3)


def reset_postgres_connections(site: Site) -> None:
    """RST to every connection to Postgres."""
    site.to_postgres.reset()


def cut_off_postgres(site: Site) -> None:
    """A black hole before Postgres."""
    with site.to_postgres.trouble() as line:
        line.fall_silent()
        _for_a_while(site, 2, 8)


def hold_locks(site: Site) -> None:
    """Somebody's transaction that locks the stock and stays open."""
    url = site.postgres.url.replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM commerce.stock FOR UPDATE")
        _for_a_while(site, 1, 6)


# Providers


def trouble_the_gateway(site: Site) -> None:
    """The payment gateway errs, hangs, or charges and doesn't say so."""
    fault = site.chance.choice(("500", "429", "latency", "hang", "charge_then_drop"))
    site.cluster.sandbox.misbehave(fault, count=site.chance.randint(1, 10))


def charge_and_forget_to_say(site: Site) -> None:
    """The gateway charges, and stores an error under our key."""
    site.cluster.sandbox.misbehave("charge_then_500", count=site.chance.randint(1, 5))


def trouble_the_mail_server(site: Site) -> None:
    """The mail server refuses for now, or takes a mail and drops the connection."""
    fault = site.chance.choice(("mail_450", "mail_drop_after_data"))
    site.cluster.sandbox.misbehave(fault, count=3)


FAULTS: tuple[Fault, ...] = (
    kill_a_worker_node,
    kill_a_worker_process,
    freeze_a_worker,
    restart_a_worker,
    kill_a_relay,
    freeze_a_relay,
    kill_an_api,
    restart_an_api,
    restart_redis_empty,
    flush_redis,
    lose_the_queues,
    freeze_redis,
    reset_redis_connections,
    cut_off_redis,
    slow_redis,
    send_copies,
    send_garbage,
    crash_postgres,
    kill_postgres,
    end_sessions,
    lose_answers_to_commits,
    lose_commits,
    reset_postgres_connections,
    cut_off_postgres,
    hold_locks,
    trouble_the_gateway,
    charge_and_forget_to_say,
    trouble_the_mail_server,
)
