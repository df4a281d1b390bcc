"""What came out: the tables, read-only, and what the gateway and the mail sink have on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
import psycopg
from psycopg.abc import Query
from psycopg.conninfo import make_conninfo

Record = dict[str, Any]  # an entry of the sandbox's log, as its page gives it

_OPEN_ORDERS = "SELECT count(*) FROM commerce.orders WHERE status IN ('pending', 'reserved')"
_PAID_ORDERS = "SELECT count(*) FROM commerce.orders WHERE status = 'paid'"
_OUTCOMES = "SELECT status::text, count(*) FROM commerce.orders GROUP BY status"
_JOBS_DONE = "SELECT count(*) FROM goodsyard.job_done WHERE state = 'succeeded'"
_JOBS_DUE = """
    SELECT count(*) FROM goodsyard.job
     WHERE state IN ('dispatched', 'running') OR (state = 'waiting' AND run_at <= now())
"""
_JOBS_DEAD = "SELECT count(*) FROM goodsyard.job WHERE state = 'dead'"
_CAPTURES = "SELECT payment_id::text, amount FROM commerce.transfer WHERE code = 'capture'"
_SHELVES = "SELECT sku, on_hand, reserved FROM commerce.stock"
_LATENCY = """
    SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99])
           WITHIN GROUP (ORDER BY extract(epoch FROM updated_at - created_at))
      FROM commerce.orders WHERE status = 'paid'
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the system is."""

    orders_open: int
    orders_paid: int
    jobs_due: int
    jobs_dead: int
    mails: int


@dataclass(frozen=True, slots=True)
class Shelf:
    """Pieces of a SKU."""

    on_hand: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a demo is judged by."""

    outcomes: Mapping[str, int]
    """Orders by status."""
    captures: Mapping[str, int]
    """What the ledger says was captured, in minor units, by payment."""
    charges: list[Record]
    mails: list[Record]
    shelves: Mapping[str, Shelf]
    jobs_done: int
    latency: tuple[float, float, float] | None
    """Seconds from accepted to paid: median, 95th and 99th percentile; None if nothing was paid."""

    @property
    def last_mail_at(self) -> datetime:
        """When the newest mail was taken."""
        return max(datetime.fromisoformat(mail["at"]) for mail in self.mails)


class Witness:
    """Looks at a running system from outside and changes nothing; an async context manager."""

    def __init__(self, database_url: str, gateway: str) -> None:
        self._conninfo = make_conninfo(
            database_url.replace("postgresql+psycopg", "postgresql", 1),
            options="-c default_transaction_read_only=on",
            application_name="goodsyard-demo",
        )
        self._sandbox = f"{gateway}/sandbox"
        self._mails: list[Record] = []

    async def __aenter__(self) -> Self:
        self._database = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        self._http = aiohttp.ClientSession(raise_for_status=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()
        await self._database.close()

    async def orders(self) -> int:
        """Count the orders there are."""
        return await self._count("SELECT count(*) FROM commerce.orders")

    async def progress(self) -> Progress:
        """Say how far things are."""
        return Progress(
            orders_open=await self._count(_OPEN_ORDERS),
            orders_paid=await self._count(_PAID_ORDERS),
            jobs_due=await self._count(_JOBS_DUE),
            jobs_dead=await self._count(_JOBS_DEAD),
            mails=len(await self._all_mails()),
        )

    async def evidence(self) -> Evidence:
        """Gather everything."""
        ((latency,),) = await self._rows(_LATENCY)
        return Evidence(
            outcomes=dict(await self._rows(_OUTCOMES)),
            captures=dict(await self._rows(_CAPTURES)),
            charges=await self._log("charges", after=0),
            mails=await self._all_mails(),
            shelves={
                sku: Shelf(on_hand, reserved)
                for sku, on_hand, reserved in await self._rows(_SHELVES)
            },
            jobs_done=await self._count(_JOBS_DONE),
            latency=None if latency is None else tuple(latency),
        )

    async def _all_mails(self) -> list[Record]:
        self._mails += await self._log("mails", after=len(self._mails))
        return self._mails

    async def _log(self, name: str, after: int) -> list[Record]:
        async with self._http.get(f"{self._sandbox}/{name}", params={"after": after}) as page:
            return list((await page.json())["data"])

    async def _count(self, query: Query) -> int:
        ((number,),) = await self._rows(query)
        return int(number)

    async def _rows(self, query: Query) -> list[tuple[Any, ...]]:  # Any: a row of any table
        return await (await self._database.execute(query)).fetchall()
