"""A tenant of its own in a running system: what it orders, and what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.keys import create_api_key
from commerce.accounts.scopes import ADMIN
from commerce.orders import rows
from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from commerce.payments.rules import charge_key
from goodsyard.database import open_engine, session_factory
from goodsyard.submit import Staged, stage
from tasks.contracts import ProcessOrder
from tests.harness.programs import PATIENCE
from tests.harness.sandbox import Entry, Sandbox
from tests.processes import wait_until

T = TypeVar("T")
Row = dict[str, Any]  # Any: of whatever a query selects

ON_HAND = 1_000_000
"""Pieces of the one SKU in stock, before anything is ordered."""

# How the ways an order can end are mixed: one order in ten is declined, free or not to be had.
_VISA = "pm_card_visa"
_MIX = (
    ("payment_failed", Line("CD", 1, 1_999), "pm_card_chargeDeclined"),
    ("paid", Line("CD", 1, 0), _VISA),
    ("rejected", Line("sold out", 1, 1_999), _VISA),
    *7 * (("paid", Line("CD", 2, 1_499), _VISA),),
)


@dataclass
class Shop:
    """One tenant with a customer and a stock, judged apart from all others.

    Args:
        database_url: where the orders go.
        sandbox: where the system charges and mails.
        logs: where to look when an order doesn't come to its end.
    """

    database_url: str
    sandbox: Sandbox
    logs: object
    expected: dict[UUID, str] = field(default_factory=dict)
    """What every order handed in must end as."""
    stocked: dict[str, int] = field(default_factory=dict)
    """What was on hand of every SKU before anything was ordered."""

    def __enter__(self) -> Self:
        self._connection = self._connect()
        self.tenant = self.value(
            "INSERT INTO commerce.tenant (name) VALUES (gen_random_uuid()) RETURNING id"
        )
        self.email = f"customer-of-{self.tenant}@shop.example"
        self.user = self.value(
            "INSERT INTO commerce.users (tenant, email) VALUES (%(tenant)s, %(email)s)"
            " RETURNING id",
            email=self.email,
        )
        self.stock("CD", ON_HAND)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def _connect(self) -> psycopg.Connection[Row]:
        url = make_url(self.database_url).set(drivername="postgresql")
        return psycopg.connect(
            url.render_as_string(hide_password=False), autocommit=True, row_factory=dict_row
        )

    def stock(self, sku: str, on_hand: int) -> None:
        """Put a new SKU on the shelf."""
        self.stocked[sku] = on_hand
        self.rows(
            "INSERT INTO commerce.stock (tenant, sku, on_hand)"
            " VALUES (%(tenant)s, %(sku)s, %(on_hand)s) RETURNING sku",
            sku=sku,
            on_hand=on_hand,
        )

    def api_key(self) -> str:
        """Return a key with which the API takes a caller for the shop's administrator."""
        name = self.value("SELECT name FROM commerce.tenant WHERE id = %(tenant)s")
        return self.transact(lambda tx: create_api_key(tx, name, "tests", [ADMIN], unlimited=True))

    def order(self, count: int) -> None:
        """Hand orders in, as the API does: each with its job, all in one commit."""
        ends = [_MIX[number % len(_MIX)] for number in range(count)]
        orders = [NewOrder(self.user, "EUR", [line], card, {}) for _, line, card in ends]
        self.expected |= {order.id: end for order, (end, _, _) in zip(orders, ends, strict=True)}
        self.hand_in(orders)

    def hand_in(self, orders: Sequence[NewOrder]) -> None:
        """Hand these orders in; who does says in ``expected`` what must become of them."""

        async def submit(tx: AsyncSession) -> None:
            await rows.insert(tx, self.tenant, orders)
            await stage(tx, [Staged(self.tenant, ProcessOrder(order_id=o.id)) for o in orders])

        self.transact(submit)

    def transact(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run functions of the engine or the business in one transaction."""

        async def run() -> T:
            engine = open_engine(self.database_url, pool_size=1, application_name="tests")
            try:
                async with session_factory(engine).begin() as tx:
                    return await work(tx)
            finally:
                await engine.dispose()

        return asyncio.run(run())

    def rows(self, query: str, **parameters: object) -> list[Row]:
        """Return what a query selects; ``%(tenant)s`` is the shop's.

        Raises:
            psycopg.OperationalError: Postgres is away, or was; the next call connects anew.
        """
        if self._connection.closed:
            self._connection = self._connect()
        known = {"tenant": getattr(self, "tenant", None)}
        return self._connection.execute(query.encode(), known | parameters).fetchall()

    def value(self, query: str, **parameters: object) -> Any:  # noqa: ANN401 - as selected
        """Return the one value that a query selects."""
        [row] = self.rows(query, **parameters)
        [value] = row.values()
        return value

    def outcomes(self) -> Counter[str]:
        """Return how many orders have which status."""
        query = "SELECT status::text, count(*) FROM commerce.orders WHERE tenant = %(tenant)s"
        return Counter({r["status"]: r["count"] for r in self.rows(f"{query} GROUP BY status")})

    def statuses(self) -> dict[UUID, str]:
        """Return what has become of every order so far."""
        query = "SELECT id, status::text FROM commerce.orders WHERE tenant = %(tenant)s"
        return {row["id"]: row["status"] for row in self.rows(query)}

    def jobs(self) -> list[Row]:
        """Return the jobs that are live or dead, grouped by what they have in common."""
        return self.rows("""
            SELECT kind, state::text, count(*), max(fence) AS fence, max(lost) AS lost,
                   max(attempts) AS attempts, min(deadline - now()) AS due_in, max(error) AS error
              FROM goodsyard.job WHERE tenant = %(tenant)s GROUP BY kind, state ORDER BY 1, 2""")

    def is_settled(self) -> bool:
        """Tell whether every order came to its end, and no job of the shop is live or dead."""
        outcomes = self.outcomes()
        return not (outcomes["pending"] or outcomes["reserved"] or self.jobs())

    def until_settled(self) -> None:
        """Wait until all orders and all jobs have come to their end."""
        self.until(self.is_settled, "all orders to come to their end")

    def until_charged(self, count: int) -> None:
        """Wait until the gateway has seen that many charges of this shop."""
        self.until(lambda: len(self.charges()) >= count, f"{count} charges")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait until ``condition`` holds; where it doesn't, say how things stand.

        A Postgres that is away meanwhile is waited for.

        Raises:
            AssertionError: it didn't within ``seconds``.
        """

        def holds() -> bool:
            with suppress(psycopg.OperationalError):
                return condition()
            return False

        try:
            wait_until(holds, what, seconds)
        except AssertionError as error:
            error.add_note(f"orders: {dict(self.outcomes())}")
            for jobs in self.jobs():
                error.add_note(f"jobs: {jobs}")
            error.add_note(f"logs: {self.logs}")
            raise

    def until_sent_again(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing waits for a worker under the message it was last sent with."""
        query = "SELECT id, fence FROM goodsyard.job"
        query += " WHERE tenant = %(tenant)s AND state = 'dispatched'"

        def dispatched() -> set[tuple[object, object]]:
            return {(row["id"], row["fence"]) for row in self.rows(query)}

        sent = dispatched()
        self.until(lambda: not sent & dispatched(), f"{len(sent)} jobs to be sent again", seconds)

    def dropped(self) -> Counter[str]:
        """Return what all workers of the system, whoever's orders they work on, have dropped."""
        rows = self.rows("SELECT reason, count FROM goodsyard.dropped")
        return Counter({row["reason"]: row["count"] for row in rows})

    def most_lost(self) -> int:
        """Return the most deliveries that any one job has lost."""
        most: int = self.value("""
            SELECT coalesce(max(lost), 0)
              FROM (SELECT lost FROM goodsyard.job WHERE tenant = %(tenant)s
                    UNION ALL
                    SELECT lost FROM goodsyard.job_done WHERE tenant = %(tenant)s) AS jobs""")
        return most

    def charges(self) -> list[Entry]:
        """Return what the gateway saw of this shop's payments, in order."""
        keys = {
            charge_key(row["id"])
            for row in self.rows("SELECT id FROM commerce.payment WHERE tenant = %(tenant)s")
        }
        return [c for c in self.sandbox.charges() if c["idempotency_key"] in keys]

    def mails(self) -> list[Entry]:
        """Return what the mail sink took for this shop's customer, copies included, in order."""
        return [mail for mail in self.sandbox.mails() if mail["to"] == self.email]
