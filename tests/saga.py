"""The order saga on a test's own database, against a gateway and a mail sink that really answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import httpx
from pydantic import EmailStr, HttpUrl, SecretStr, TypeAdapter

from commerce.notifications.mailer import Mailer, MailSettings, SmtpUrl
from commerce.notifications.postman import Postman
from commerce.notifications.signing import WebhookSettings
from commerce.orders import rows as order_rows
from commerce.orders.rows import NewOrder
from commerce.orders.rules import Line
from commerce.payments.gateway import Gateway, GatewaySettings
from commerce.stock.shelf import set_on_hand
from goodsyard.claims import Delivery
from goodsyard.database import Sessions
from goodsyard.execution import Executor
from goodsyard.submit import Staged, stage
from ops import children
from ops.children import Program
from tasks import contracts
from tasks.contracts import ProcessOrder, SendEmail
from tasks.flow import build_flow
from tasks.webhooks import Webhook
from tests.processes import wait_until
from tests.yard import Yard

SECRET_KEY = "known to the tests, and to nobody else"  # noqa: S105 - of tests alone
VISA, DECLINED = "pm_card_visa", "pm_card_chargeDeclined"

_START = """
import sys
from pathlib import Path
from ops.sandbox import main
main(0, 0, Path(sys.argv[1]))
"""
_emails = (f"customer{number}@example.com" for number in count(1))


@dataclass(frozen=True)
class Sandbox:
    """Where a running sandbox answers."""

    gateway: str
    smtp: str


@contextmanager
def run_sandbox(folder: Path) -> Iterator[Sandbox]:
    """Have a sandbox for a while; it ends with us, however we end."""
    log = folder / "sandbox.log"
    program = Program(
        name="sandbox",
        command=(sys.executable, "-c", _START, str(folder)),
        environment=os.environ,
        folder=Path(__file__).parents[1],
    )
    process = children.spawn(program, log)
    try:
        wait_until(lambda: "\n" in log.read_text(), "the sandbox to say where it is", 30)
        yield Sandbox(**json.loads(log.read_text().splitlines()[0]))
    finally:
        children.stop(process, program)


class Shelf(NamedTuple):
    """Pieces of one SKU."""

    on_hand: int
    reserved: int


class Booking(NamedTuple):
    """A transfer in the ledger, without its ids."""

    debit: str
    credit: str
    amount: int
    code: str


@dataclass
class Saga:
    """A shop with one customer; nothing moves on unless a test lets it."""

    yard: Yard
    sandbox: Sandbox
    executor: Executor
    http: httpx.AsyncClient
    tenant: int
    user: UUID
    email: str
    worker: UUID
    orders: list[UUID] = field(default_factory=list)

    async def put_in_stock(self, **pieces: int) -> None:
        """Count so many pieces of each SKU."""
        async with self.yard.sessions.begin() as tx:
            for sku, on_hand in pieces.items():
                await set_on_hand(tx, self.tenant, sku, on_hand)

    async def order(self, *lines: Line, card: str = VISA) -> UUID:
        """Hand an order in, as the API does; one CD at 14.99 EUR if nothing else is asked for."""
        new = NewOrder(self.user, "EUR", lines or [Line("CD", 1, 1_499)], card, {})
        async with self.yard.sessions.begin() as tx:
            await order_rows.insert(tx, self.tenant, [new])
            await stage(tx, [Staged(self.tenant, ProcessOrder(order_id=new.id))])
        self.orders.append(new.id)
        return new.id

    async def deliver(self, kind: str) -> Sequence[Delivery]:
        """Dispatch all due jobs of a kind in one chunk, and run it to its end."""
        deliveries = await self.yard.dispatch(kind)
        await self.executor.run(kind, deliveries)
        await self.executor.drain()
        return deliveries

    async def finish(self) -> None:
        """Let everything that is due run, and what comes of it, until nothing is due."""
        while any([await self.deliver(contract.kind) for contract in contracts.ALL]):
            pass

    async def hurry(self) -> None:
        """Make every waiting job due."""
        await self.yard.sql("UPDATE goodsyard.job SET run_at = now() WHERE state = 'waiting'")

    async def status(self, order_id: UUID) -> str:
        """Return where an order stands."""
        ((status,),) = await self.yard.sql(
            "SELECT status::text FROM commerce.orders WHERE id = :id", id=order_id
        )
        return str(status)

    async def reason(self, order_id: UUID) -> str | None:
        """Return why an order stands there."""
        ((reason,),) = await self.yard.sql(
            "SELECT reason FROM commerce.orders WHERE id = :id", id=order_id
        )
        return reason if reason is None else str(reason)

    async def refunded(self, order_id: UUID) -> int:
        """Return how much of an order was given back."""
        ((amount,),) = await self.yard.sql(
            "SELECT amount_refunded FROM commerce.orders WHERE id = :id", id=order_id
        )
        return int(amount)

    async def shelf(self, sku: str = "CD") -> Shelf:
        """Return what is on the shelf."""
        ((on_hand, reserved),) = await self.yard.sql(
            "SELECT on_hand, reserved FROM commerce.stock WHERE tenant = :t AND sku = :sku",
            t=self.tenant,
            sku=sku,
        )
        return Shelf(on_hand, reserved)

    async def ledger(self) -> list[Booking]:
        """Return the shop's bookings in their order; refunds without their numbers."""
        rows = await self.yard.sql(
            """SELECT d.code, c.code, t.amount, split_part(t.code, ':', 1)
                 FROM commerce.transfer t
                 JOIN commerce.account d ON d.id = t.debit
                 JOIN commerce.account c ON c.id = t.credit
                WHERE t.tenant = :t ORDER BY t.id""",
            t=self.tenant,
        )
        return [Booking(*row) for row in rows]

    async def payment_of(self, order_id: UUID) -> tuple[UUID, str]:
        """Return the id and state of the one payment that an order has."""
        ((payment, state),) = await self.yard.sql(
            "SELECT id, state::text FROM commerce.payment WHERE order_id = :id", id=order_id
        )
        return payment, state

    async def receipts(self) -> list[str]:
        """Return the orders whose receipts are staged or sent, in the order of their jobs."""
        rows = await self.yard.sql(
            """SELECT payload -> 'data' ->> 'order_id', id FROM goodsyard.job
                WHERE kind = :kind AND tenant = :t
                UNION ALL
               SELECT payload -> 'data' ->> 'order_id', id FROM goodsyard.job_done
                WHERE kind = :kind AND tenant = :t
                ORDER BY 2""",
            kind=SendEmail.kind,
            t=self.tenant,
        )
        return [row[0] for row in rows]

    async def live_jobs(self) -> list[tuple[str, str]]:
        """Return kind and state of every job that isn't over."""
        rows = await self.yard.sql(
            "SELECT kind, state::text FROM goodsyard.job WHERE tenant = :t ORDER BY id",
            t=self.tenant,
        )
        return [(kind, state) for kind, state in rows]

    async def charges(self) -> list[Mapping[str, object]]:
        """Return what the gateway says of attempts to charge this shop's payments."""
        payments = await self.yard.sql(
            "SELECT id::text FROM commerce.payment WHERE tenant = :t", t=self.tenant
        )
        keys = {f"{row[0]}:charge" for row in payments}
        answer = (await self.http.get("/sandbox/charges")).raise_for_status()
        return [charge for charge in answer.json()["data"] if charge["idempotency_key"] in keys]

    async def refunds(self) -> list[Mapping[str, object]]:
        """Return what the gateway gave back of this shop's charges."""
        rows = await self.yard.sql(
            "SELECT gateway_id FROM commerce.payment WHERE tenant = :t", t=self.tenant
        )
        intents = {row.gateway_id for row in rows}
        answer = (await self.http.get("/sandbox/refunds")).raise_for_status()
        return [refund for refund in answer.json()["data"] if refund["payment_intent"] in intents]

    async def mails(self) -> list[Mapping[str, object]]:
        """Return what the mail sink got for the customer."""
        answer = (await self.http.get("/sandbox/mails")).raise_for_status()
        return [mail for mail in answer.json()["data"] if mail["to"] == self.email]

    async def fault(self, fault: str, times: int = 1, seconds: float | None = None) -> None:
        """Make the sandbox misbehave."""
        order = {"fault": fault, "count": times, "seconds": seconds}
        (await self.http.post("/sandbox/faults", json=order)).raise_for_status()


@asynccontextmanager
async def open_saga(
    yard: Yard, sandbox: Sandbox, worker_sessions: Sessions | None = None
) -> AsyncIterator[Saga]:
    """Have a shop for a while; the sandbox behaves again afterwards.

    Args:
        yard: the database, as its owner sees it.
        sandbox: where it charges and mails.
        worker_sessions: the same database as its jobs see it; as the owner does, if not given.
    """
    sessions = worker_sessions or yard.sessions
    gateway = Gateway(
        GatewaySettings(
            gateway_url=HttpUrl(sandbox.gateway), gateway_key=SecretStr("sk_test_of_the_saga")
        )
    )
    mailer = Mailer(
        MailSettings(
            smtp_url=TypeAdapter(SmtpUrl).validate_python(sandbox.smtp),
            mail_from=TypeAdapter(EmailStr).validate_python("shop@example.com"),
        )
    )
    postman = Postman(WebhookSettings(secret_key=SecretStr(SECRET_KEY), webhook_allow_private=True))
    worker, email = uuid4(), next(_emails)
    async with httpx.AsyncClient(base_url=sandbox.gateway, timeout=10) as http:
        tenant, user = await _move_in(yard, email)
        flow = build_flow(gateway, mailer, Webhook(postman, sessions))
        executor = Executor(flow, sessions, yard.bell, worker)
        async with sessions.begin() as tx:
            # What SQLAlchemy asks a server at first is no cost of a chunk.
            _ = await tx.connection()
        try:
            yield Saga(yard, sandbox, executor, http, tenant, user, email, worker)
        finally:
            await http.delete("/sandbox/faults")
            await executor.drain()
            await gateway.close()
            await mailer.close()
            await postman.close()


async def _move_in(yard: Yard, email: str) -> tuple[int, UUID]:
    ((tenant,),) = await yard.sql(
        "INSERT INTO commerce.tenant (name) VALUES ('shop of ' || :email) RETURNING id", email=email
    )
    ((user,),) = await yard.sql(
        "INSERT INTO commerce.users (tenant, email) VALUES (:t, :email) RETURNING id",
        t=tenant,
        email=email,
    )
    return tenant, user
