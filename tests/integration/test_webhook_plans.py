"""What webhooks ask of Postgres stays a seek by index, however many events there have been."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.notifications import endpoints
from commerce.notifications.health import Tally
from goodsyard import recall
from goodsyard.interventions import Actor
from goodsyard.job import new_id
from tasks import events
from tasks.contracts import SendWebhook
from tasks.replays import replay_since
from tests.yard import TENANT, Yard

_FILL = """
    INSERT INTO commerce.tenant (name) SELECT 'tenant ' || n FROM generate_series(1, 100) AS n;
    INSERT INTO commerce.users (tenant, email) SELECT id, name FROM commerce.tenant;
    INSERT INTO commerce.webhook_endpoint (tenant, url, events)
    SELECT id, 'https://receiver.example/', ARRAY['order.*']
      FROM commerce.tenant, generate_series(1, 5);
    INSERT INTO commerce.orders (tenant, user_id, currency, total, payment_method, status)
    SELECT tenant, id, 'EUR', 5, 'pm_card_visa', 'paid'
      FROM commerce.users, generate_series(1, 100);
    INSERT INTO commerce.payment (tenant, order_id, user_id, currency, amount, payment_method)
    SELECT tenant, id, user_id, currency, 5, payment_method FROM commerce.orders;
    INSERT INTO goodsyard.job_done (tenant, kind, state, max_attempts, subject, payload)
    SELECT e.tenant, 'notifications.webhook', 'succeeded', 9, e.id, '{}'
      FROM commerce.webhook_endpoint e, generate_series(1, 40);
    INSERT INTO goodsyard.job (tenant, kind, state, max_attempts, subject, run_at, payload)
    SELECT e.tenant, 'notifications.webhook',
           CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'dead' END::goodsyard.job_state,
           9, e.id, now() + interval '1 hour', '{}'
      FROM commerce.webhook_endpoint e, generate_series(1, 20) AS n;
    ANALYZE commerce.webhook_endpoint, commerce.orders, commerce.payment, goodsyard.job,
            goodsyard.job_done
"""

_SEQUENTIAL_SCANS = text("""
    SELECT sum(pg_stat_get_xact_numscans(c.oid))::int
      FROM pg_class c
     WHERE c.oid = ANY(CAST(:heaps AS regclass[]))
        OR c.oid IN (SELECT inhrelid FROM pg_inherits
                      WHERE inhparent = 'goodsyard.job_done'::regclass)
""")
_HEAPS = ["commerce.orders", "commerce.payment", "goodsyard.job"]

Statement = Callable[[AsyncSession, UUID], Awaitable[object]]


async def tell(tx: AsyncSession, _: UUID) -> None:
    orders = list(await tx.scalars(text("SELECT id FROM commerce.orders ORDER BY id LIMIT 200")))
    payments = list(await tx.scalars(text("SELECT id FROM commerce.payment ORDER BY id LIMIT 200")))
    await events.tell(tx, orders=orders, payments=payments)


async def replay(tx: AsyncSession, endpoint: UUID) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    await replay_since(tx, Actor(TENANT, "ann"), endpoint, since, before=new_id())


STATEMENTS: dict[str, Statement] = {
    "tell": tell,
    "hurry": lambda tx, endpoint: recall.hurry(tx, [endpoint], SendWebhook.kind),
    "record": lambda tx, endpoint: endpoints.record(tx, {endpoint: Tally(failed=1)}),
    "replay": replay,
}


@pytest.mark.parametrize("planner", ["planned for its values", "planned for any values"])
async def test_no_statement_reads_a_table_as_a_whole(yard: Yard, planner: str) -> None:
    async with yard.sessions.begin() as tx:
        for statement in _FILL.split(";"):
            await tx.execute(text(statement))
    for name, statement_of in STATEMENTS.items():
        async with yard.sessions.begin() as tx:
            endpoint = await tx.scalar(text("SELECT id FROM commerce.webhook_endpoint LIMIT 1"))
            if planner == "planned for any values":  # as by a worker
                await tx.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
                await tx.execute(text("SET LOCAL enable_seqscan = off"))
            before = await tx.scalar(_SEQUENTIAL_SCANS, {"heaps": _HEAPS})
            await statement_of(tx, endpoint)
            assert await tx.scalar(_SEQUENTIAL_SCANS, {"heaps": _HEAPS}) == before, name
