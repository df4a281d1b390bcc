"""API, relay and worker each work with a database role that may do no more than they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from uuid import uuid4

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import doorbell, heartbeat, maintenance
from goodsyard.database import Sessions, open_engine, session_factory
from goodsyard.flow import DatabaseHandler
from goodsyard.heartbeat import Worker
from goodsyard.interventions import Actor, cancel_workflow
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome, Refused
from goodsyard.publisher import Envelope
from ops import roles
from ops.errors import CommandError
from ops.roles import PRIVILEGES, Role
from tasks.contracts import ALL, QUEUES
from tests.flows import add, lines_of, start, step
from tests.harness.logins import login
from tests.integration.conftest import Api, order_for
from tests.saga import Sandbox, open_saga
from tests.yard import TENANT, Note, Yard
from workers.relay import Relay
from workers.sweep import Sweep


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """One of its own, since these tests change what a role may do."""
    return own_database_url


@pytest.fixture
async def seen_by(database_url: str) -> AsyncIterator[Callable[[Role], Sessions]]:
    """Transactions of each role on this test's database."""
    async with AsyncExitStack() as stack:

        def opened(role: Role) -> Sessions:
            url = login(database_url, role)
            engine = open_engine(url, pool_size=4, application_name=role, keep_plans=True)
            stack.push_async_callback(engine.dispose)
            return session_factory(engine)

        yield opened


async def test_with_these_roles_an_order_is_paid(
    api: Api, sandbox: Sandbox, redis_url: str, seen_by: Callable[[Role], Sessions]
) -> None:
    """The API of the fixture has its role; relay, sweep and jobs run here, without a message."""
    by_relay, by_worker = seen_by(Role.RELAY), seen_by(Role.WORKER)
    async with by_worker.begin() as tx:
        await heartbeat.beat(tx, Worker(uuid4(), "roles@test", sorted(QUEUES)))
    stopping = asyncio.Event()
    async with (
        doorbell.connect(redis_url) as client,
        open_saga(Yard(api.sessions, api.services.doorbell), sandbox, by_worker) as saga,
        asyncio.TaskGroup() as running,
    ):

        async def run(envelopes: Sequence[Envelope], _sent_at: float) -> None:
            for envelope in envelopes:
                await saga.executor.run(envelope.kind, envelope.chunk.deliveries)

        relay = Relay(by_relay, client, run, ALL)
        sweep = Sweep(by_relay, client, api.services.doorbell, ALL, relay)
        running.create_task(relay.run(stopping))
        running.create_task(sweep.run(stopping))
        await api.http.put("/v1/stock/CD", json={"on_hand": 5})
        accepted = await api.submit(order_for(await api.user()))
        order = await api.http.get(accepted.headers["Location"], params={"wait": 30})
        stopping.set()
    assert order.json()["status"] == "paid", order.text


async def test_with_these_roles_a_workflow_is_staged_carried_out_abandoned_and_forgotten(
    yard: Yard, seen_by: Callable[[Role], Sessions]
) -> None:
    api, worker = (Yard(seen_by(role), yard.bell) for role in (Role.API, Role.WORKER))

    async def refuse_b(chunk: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
        return [Refused("no") if job.payload.line == "b" else Done() for job in chunk]

    handler = DatabaseHandler(Note, refuse_b)
    flow = await start(api, step("a", undo="undo a"), step("b", "a"), step("c", "b"))
    for step_of in ("a", "b", "undo a"):
        deliveries = await yard.dispatch()
        assert await lines_of(yard, [job for job, _ in deliveries]) == [step_of]
        await worker.run(handler, deliveries)
    cancelled = await start(api, step("x"))
    await add(api, cancelled.jobs["x"])
    async with api.sessions.begin() as tx:
        followed = await cancel_workflow(tx, Actor(TENANT, "ann"), cancelled.id)
        assert followed is not None
        assert len(followed.called_off) == 2
    await yard.sql("UPDATE goodsyard.workflow SET created_at = now() - interval '1 month'")
    await yard.sql("DELETE FROM goodsyard.job_done WHERE workflow = :w", w=cancelled.id)
    async with seen_by(Role.RELAY).begin() as tx:
        await maintenance.forget_workflows(tx)
    left = await yard.sql("SELECT id FROM goodsyard.workflow WHERE undoes IS NULL")
    assert [row.id for row in left] == [flow.id]


_NEW_ORDER = """
    INSERT INTO commerce.orders (tenant, user_id, currency, total, payment_method)
    VALUES (1, uuidv7(), 'EUR', 1, 'x')
"""

FORBIDDEN = {
    Role.API: [
        "UPDATE commerce.transfer SET amount = 1",
        "DELETE FROM commerce.transfer",
        "TRUNCATE commerce.transfer",
        "UPDATE commerce.account SET may_overdraw = true",
        "UPDATE commerce.api_key SET scopes = '{admin}'",
        "UPDATE commerce.tenant SET plan = 'unlimited'",
        "UPDATE commerce.order_line SET unit_amount = 0",
        "DELETE FROM commerce.orders",
        "DELETE FROM goodsyard.audit",
        "UPDATE goodsyard.audit SET actor = 'nobody'",
        "DROP TABLE commerce.orders",
        "CREATE TABLE commerce.mine ()",
        "SELECT goodsyard.make_day_partition('2030-01-01')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
    Role.RELAY: [
        _NEW_ORDER,
        "UPDATE commerce.orders SET status = 'paid'",
        "SELECT email FROM commerce.users",
        "SELECT secret_hash FROM commerce.api_key",
        "SELECT * FROM commerce.transfer",
        "DELETE FROM goodsyard.job",
        "INSERT INTO goodsyard.job_done (id) VALUES (uuidv7())",
        "CREATE TABLE goodsyard.mine ()",
    ],
    Role.WORKER: [
        "UPDATE commerce.transfer SET amount = 1",
        "DELETE FROM commerce.transfer",
        "TRUNCATE commerce.transfer",
        "UPDATE commerce.account SET balance = 1",
        _NEW_ORDER,
        "SELECT password_hash FROM commerce.users",
        "UPDATE commerce.users SET role = 'admin'",
        "SELECT secret_hash FROM commerce.api_key",
        "DELETE FROM goodsyard.job_done",
        "DELETE FROM goodsyard.job_limit",
        "UPDATE goodsyard.queue SET paused = true",
        "INSERT INTO goodsyard.audit (tenant, actor, action, target) VALUES (1, '', '', '')",
        "SELECT goodsyard.make_day_partition('2030-01-01')",
    ],
}


def test_what_is_not_a_roles_work_is_refused_by_the_database(database_url: str) -> None:
    let_through = []
    for role, statements in FORBIDDEN.items():
        with _connect(login(database_url, role)) as connection:
            for statement in statements:
                try:
                    connection.execute(statement.encode())
                    let_through.append((role.value, statement))
                except InsufficientPrivilege:
                    pass
    assert let_through == []


def test_nobody_but_its_owner_may_change_the_ledger_and_not_even_the_owner_does(
    database_url: str,
) -> None:
    with _connect(database_url) as owner:
        granted = owner.execute("""
            SELECT grantee, privilege_type FROM information_schema.role_table_grants
             WHERE table_schema = 'commerce' AND table_name = 'transfer' AND grantee <> current_user
             ORDER BY 1, 2""").fetchall()
        assert granted == [
            (role.value, right)
            for role in (Role.API, Role.WORKER)
            for right in ("INSERT", "SELECT")
        ]
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            owner.execute("DELETE FROM commerce.transfer")


def test_a_new_table_is_somebodys_work_or_the_test_says_so(database_url: str) -> None:
    with _connect(database_url) as owner:
        tables = owner.execute("""
            SELECT n.nspname || '.' || c.relname FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname IN ('goodsyard', 'commerce') AND c.relkind IN ('r', 'p')
               AND NOT c.relispartition""").fetchall()
    known = {table for granted in PRIVILEGES.values() for table in granted}
    assert {table for (table,) in tables} == known - {"public.alembic_version"}


def test_rights_are_granted_again_and_what_was_too_much_is_taken_away(database_url: str) -> None:
    with _connect(database_url) as owner:
        owner.execute(f"GRANT DELETE ON commerce.orders TO {Role.API}, PUBLIC".encode())
        roles.grant(database_url)
        held = owner.execute(
            "SELECT has_table_privilege(%s, 'commerce.orders', 'DELETE')", [Role.API.value]
        ).fetchone()
    assert held == (False,)


def test_who_may_not_grant_is_told_what_would_help(database_url: str) -> None:
    with pytest.raises(CommandError, match="--sql"):
        roles.grant(login(database_url, Role.API))


def _connect(url: str) -> psycopg.Connection:
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(conninfo, autocommit=True)
