"""Stock is never sold twice and money never booked twice, whoever comes at once."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from structlog.testing import capture_logs

from commerce.orders.rules import Line
from commerce.payments import ledger
from commerce.payments.ledger import Transfer
from commerce.stock import rows as stock_rows
from commerce.stock.shelf import BelowReservedError, set_on_hand
from goodsyard.job import new_id
from tasks.contracts import ChargePayment, ProcessOrder
from tests.saga import Booking, Saga, Shelf


def transfer(saga: Saga, payment: UUID, *, amount: int = 100, code: str = "capture") -> Transfer:
    return Transfer(saga.tenant, ledger.GATEWAY, ledger.SALES, amount, "EUR", code, payment)


async def book(saga: Saga, *transfers: Transfer) -> None:
    async with saga.yard.sessions.begin() as tx:
        await ledger.book(tx, transfers)


async def test_concurrent_chunks_never_sell_a_piece_twice(saga: Saga) -> None:
    await saga.put_in_stock(CD=100, LP=40)
    for number in range(120):  # each in an order of its own, so that locks would cross
        lines = [Line("CD", 1 + number % 2, 100), Line("LP", 1, 100)][: 1 + number % 3 // 2]
        await saga.order(*(lines if number % 2 else reversed(lines)))
    chunks = [await saga.yard.dispatch(ProcessOrder.kind, most=15) for _ in range(8)]
    with capture_logs() as logs:
        await asyncio.gather(*(saga.executor.run(ProcessOrder.kind, chunk) for chunk in chunks))
    assert logs == []  # no deadlock, no check violated
    ((accepted, pieces),) = await saga.yard.sql("""
        SELECT count(DISTINCT o.id), sum(l.quantity) FILTER (WHERE l.sku = 'CD')
          FROM commerce.orders o JOIN commerce.order_line l ON l.order_id = o.id
         WHERE o.status = 'reserved'""")
    assert accepted > 60
    assert 99 <= pieces <= 100
    assert await saga.shelf() == Shelf(100, pieces)

    await saga.deliver(ChargePayment.kind)
    assert await saga.shelf() == Shelf(100 - pieces, 0)
    charged = sum(int(str(charge["amount"])) for charge in await saga.charges())
    assert charged == sum(booking.amount for booking in await saga.ledger())


async def test_more_than_is_on_the_shelf_can_never_be_reserved(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    with pytest.raises(IntegrityError, match="stock_never_oversold"):
        async with saga.yard.sessions.begin() as tx:
            await stock_rows.reserve(tx, {(saga.tenant, "CD"): 6})
    assert await saga.shelf() == Shelf(5, 0)


async def test_a_count_below_what_is_promised_is_refused(saga: Saga) -> None:
    await saga.put_in_stock(CD=5)
    await saga.order(Line("CD", 3, 100))
    await saga.deliver(ProcessOrder.kind)
    with pytest.raises(BelowReservedError, match="3 pieces of CD are reserved"):
        async with saga.yard.sessions.begin() as tx:
            await set_on_hand(tx, saga.tenant, "CD", 2)
    assert await saga.shelf() == Shelf(5, 3)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE commerce.transfer SET amount = 1",
        "DELETE FROM commerce.transfer",
        "TRUNCATE commerce.transfer",
        "UPDATE commerce.transfer SET amount = 1 WHERE false",
    ],
)
async def test_what_is_in_the_ledger_cannot_be_changed(saga: Saga, statement: str) -> None:
    await book(saga, transfer(saga, new_id()))
    with pytest.raises(DBAPIError, match="the ledger is append-only"):
        await saga.yard.sql(statement)
    assert await saga.ledger() == [Booking("gateway", "sales", 100, "capture")]


@pytest.mark.parametrize("amount", [100, 99])
async def test_a_transfer_that_comes_twice_fails_loudly(saga: Saga, amount: int) -> None:
    payment = new_id()
    await book(saga, transfer(saga, payment))
    with pytest.raises(IntegrityError, match="transfer_once"):
        await book(saga, transfer(saga, new_id()), transfer(saga, payment, amount=amount))
    assert len(await saga.ledger()) == 1


@pytest.mark.parametrize("amount", [0, -1])
async def test_a_transfer_moves_something_in_one_direction(saga: Saga, amount: int) -> None:
    with pytest.raises(IntegrityError, match="transfer_amount_check"):
        await book(saga, transfer(saga, new_id(), amount=amount))


async def test_accounts_that_several_open_at_once_are_opened_once(saga: Saga) -> None:
    await asyncio.gather(*(book(saga, transfer(saga, new_id())) for _ in range(20)))
    assert len(await saga.ledger()) == 20
    ((accounts,),) = await saga.yard.sql("SELECT count(*) FROM commerce.account")
    assert accounts == 2


async def test_debits_and_credits_balance_and_agree_with_the_gateway(saga: Saga) -> None:
    await saga.put_in_stock(CD=50)
    for number in range(20):
        await saga.order(Line("CD", 1, 100 + number))
    await saga.finish()
    async with saga.yard.sessions.begin() as tx:
        balance = await tx.scalar(
            text("""SELECT sum(CASE a.code WHEN 'gateway' THEN debit ELSE -credit END) FROM
                    (SELECT a.code, (SELECT coalesce(sum(amount), 0) FROM commerce.transfer
                                      WHERE debit = a.id) AS debit,
                            (SELECT coalesce(sum(amount), 0) FROM commerce.transfer
                              WHERE credit = a.id) AS credit FROM commerce.account a) AS a""")
        )
    assert balance == 0
    charged = sum(int(str(charge["amount"])) for charge in await saga.charges())
    assert charged == sum(booking.amount for booking in await saga.ledger()) == 2_190


async def test_one_tenants_orders_never_touch_anothers_stock(saga: Saga) -> None:
    await saga.put_in_stock(CD=1)
    await saga.yard.sql(
        "INSERT INTO commerce.stock (tenant, sku, on_hand) VALUES (:t, 'CD', 9)", t=saga.tenant + 1
    )
    orders = [await saga.order(), await saga.order()]
    await saga.finish()
    assert sorted([await saga.status(order) for order in orders]) == ["paid", "rejected"]
    ((theirs,),) = await saga.yard.sql(
        "SELECT on_hand FROM commerce.stock WHERE tenant = :t", t=saga.tenant + 1
    )
    assert theirs == 9
