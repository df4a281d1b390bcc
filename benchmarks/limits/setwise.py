"""The chain's effects set-wise, in chunks, with no job system: the most that this machine can do.

``python -m benchmarks.limits.setwise chain --jobs N --postgres … --gateway … --folder … --result
…``. Three transactions a chunk, one statement each; all gateway calls of a chunk at once, through
Goodsyard's own client. Nothing is recorded of what is under way: a crash loses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from pydantic import HttpUrl, SecretStr

from benchmarks.chain import rows
from benchmarks.limits.processes import Chunks, at_once, chain
from benchmarks.peers.harness import Figures, Run, run_and_report
from commerce.payments.gateway import Gateway, GatewaySettings
from commerce.payments.rules import Captured

CHUNK = 200
CHUNKS_AT_ONCE = 3
"""In each process: while one waits for the gateway, the others keep the processor busy."""

_RESERVE = """
WITH ordered AS (
    UPDATE orders SET status = 'reserved' WHERE id = ANY(%s) AND status = 'new'
    RETURNING id, payment_id, amount, currency, first_sku, second_sku
), wanted AS (
    SELECT sku, count(*) AS pieces
    FROM ordered, LATERAL (VALUES (first_sku), (second_sku)) AS line(sku) GROUP BY sku
), locked AS (
    SELECT sku, pieces FROM stock JOIN wanted USING (sku) ORDER BY sku FOR UPDATE OF stock
), taken AS (
    UPDATE stock SET on_hand = on_hand - pieces FROM locked WHERE stock.sku = locked.sku
)
SELECT id, payment_id, amount, currency FROM ordered
"""

_BOOK = """
WITH answered AS (
    SELECT * FROM unnest(%s::bigint[], %s::text[]) AS answered(order_id, gateway_id)
), paid AS (
    UPDATE orders SET status = 'paid' FROM answered WHERE id = order_id AND status = 'reserved'
    RETURNING payment_id, id, amount, currency, gateway_id
), payments AS (
    INSERT INTO payment (id, order_id, amount, currency, gateway_id) SELECT * FROM paid
    ON CONFLICT DO NOTHING
)
INSERT INTO ledger (payment_id, account, amount)
SELECT payment_id, account, sign * amount
FROM paid, (VALUES ('gateway', 1), ('sales', -1)) AS side(account, sign)
ON CONFLICT DO NOTHING
"""

_NOTIFY = """
WITH told AS (
    UPDATE orders SET status = 'notified' WHERE id = ANY(%s) AND status = 'paid' RETURNING id
)
INSERT INTO notification (order_id) SELECT id FROM told ON CONFLICT DO NOTHING
"""


async def carry_out(run: Run, chunks: Chunks, wait_for_others: Callable[[], None]) -> None:
    """Take chunks of orders and carry them out."""
    gateway = Gateway(
        GatewaySettings(gateway_url=HttpUrl(run.gateway), gateway_key=SecretStr("sk_test_limit"))
    )
    wait_for_others()

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(
            run.postgres, autocommit=True, prepare_threshold=0
        ) as connection:
            for chunk in chunks:
                await _carry_out(list(chunk), connection, gateway)

    await at_once(CHUNKS_AT_ONCE, work)
    await gateway.close()


async def _carry_out(
    orders: list[int], connection: psycopg.AsyncConnection[Any], gateway: Gateway
) -> None:
    rows.begins(*orders)
    due = await (await connection.execute(_RESERVE, [orders], binary=True)).fetchall()
    gateway_ids = await asyncio.gather(
        *(_charge(gateway, payment, amount, currency) for _, payment, amount, currency in due)
    )
    await connection.execute(_BOOK, [[order for order, *_ in due], gateway_ids], binary=True)
    await connection.execute(_NOTIFY, [orders])
    rows.ended(*orders)


async def _charge(gateway: Gateway, payment: UUID, amount: int, currency: str) -> str:
    answer = await gateway.charge(payment, amount, currency, "pm_card_visa")
    if not isinstance(answer, Captured):
        raise TypeError(f"the gateway was to capture it, and said {answer}")
    return answer.gateway_id


def _measure(run: Run) -> Figures:
    return chain(run, carry_out, chunk_size=CHUNK)


if __name__ == "__main__":
    run_and_report(_measure)
