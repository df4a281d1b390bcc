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
from tests.yard import Yard

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
    SELECT e.tenant, 'notifications.webhook', 'succeeded', 9, e.id,
           jsonb_build_object('endpoint_id', e.id, 'event', 'order.paid', 'occurred_at', now(),
                              'data', jsonb_build_object())
      FROM commerce.webhook_endpoint e, generate_series(1, 40);
    INSERT INTO goodsyard.job_done (tenant, kind, state, max_attempts, subject, payload)
    SELECT tenant, 'orders.process', 'succeeded', 9, id, '{}' FROM commerce.orders;
    INSERT INTO goodsyard.job (tenant, kind, state, max_attempts, subject, run_at, payload)
    SELECT e.tenant, 'notifications.webhook',
           CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'dead' END::goodsyard.job_state,
           9, e.id, now() + interval '1 hour', '{}'
      FROM commerce.webhook_endpoint e, generate_series(1, 20) AS n;
    ANALYZE commerce.webhook_endpoint, commerce.orders, commerce.payment, goodsyard.job,
            goodsyard.job_done
"""

_READ = text("""
    SELECT sum(pg_stat_get_xact_numscans(c.oid))::int AS whole_tables,
           sum(pg_stat_get_xact_tuples_fetched(c.oid))::int AS rows
      FROM pg_class c
     WHERE c.oid = ANY(CAST(:heaps AS regclass[]))
        OR c.oid IN (SELECT inhrelid FROM pg_inherits
                      WHERE inhparent = 'goodsyard.job_done'::regclass)
""")
_HEAPS = ["commerce.orders", "commerce.payment", "goodsyard.job"]

MOST_ROWS = 250
"""An endpoint has 60 jobs of the 30,000, a chunk of orders 200 rows of the 10,000."""

Statement = Callable[[AsyncSession, UUID, int], Awaitable[object]]


async def tell(tx: AsyncSession, endpoint: UUID, tenant: int) -> None:
    mine = text("SELECT id FROM commerce.orders WHERE tenant = :tenant LIMIT 100")
    await events.tell(tx, orders=list(await tx.scalars(mine, {"tenant": tenant})))


async def replay(tx: AsyncSession, endpoint: UUID, tenant: int) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    sent = await replay_since(tx, Actor(tenant, "ann"), endpoint, since, before=new_id())
    assert sent.before is None


STATEMENTS: dict[str, Statement] = {
    "tell": tell,
    "hurry": lambda tx, endpoint, _: recall.hurry(tx, [endpoint], SendWebhook.kind),
    "record": lambda tx, endpoint, _: endpoints.record(tx, {endpoint: Tally(failed=1)}),
    "replay": replay,
}


@pytest.mark.parametrize("planner", ["planned for its values", "planned for any values"])
async def test_no_statement_reads_more_than_it_is_about(yard: Yard, planner: str) -> None:
    for statement in _FILL.split(";"):
        await yard.sql(statement)
    ((endpoint, tenant), *_) = await yard.sql("SELECT id, tenant FROM commerce.webhook_endpoint")
    for name, run in STATEMENTS.items():
        async with yard.sessions.begin() as tx:
            if planner == "planned for any values":  # as by a worker
                await tx.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
                await tx.execute(text("SET LOCAL enable_seqscan = off"))
            before = (await tx.execute(_READ, {"heaps": _HEAPS})).one()
            await run(tx, endpoint, tenant)
            after = (await tx.execute(_READ, {"heaps": _HEAPS})).one()
        assert after.whole_tables == before.whole_tables, name
        assert after.rows - before.rows <= MOST_ROWS, name
