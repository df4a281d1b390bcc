"""Goods set aside for a charge that never begins go back on the shelf; for any other they stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from commerce.orders.rules import Line
from goodsyard import claims, sweeper
from goodsyard.submit import Staged, stage
from tasks.cancellation import cancel_order
from tasks.contracts import ChargePayment, ExpireReservation, ProcessOrder
from tasks.expiry import stage_expiries
from tests.saga import Saga, Shelf
from tests.yard import until

HOUR = 3_600.0
CHARGE = [(ChargePayment.kind, "waiting")]
EXPIRY = (ExpireReservation.kind, "waiting")


async def reserved(saga: Saga, *lines: Line) -> UUID:
    """Return an order whose goods are set aside; five CDs are on the shelf."""
    await saga.put_in_stock(CD=5)
    order = await saga.order(*lines)
    await saga.deliver(ProcessOrder.kind)
    assert await saga.status(order) == "reserved"
    return order


async def grow_old(saga: Saga, seconds: float = HOUR + 1) -> None:
    """Let time pass for the charges."""
    await saga.yard.sql(
        "UPDATE goodsyard.job SET run_at = run_at - make_interval(secs => :s), "
        "created_at = created_at - make_interval(secs => :s) WHERE kind = :kind",
        s=seconds,
        kind=ChargePayment.kind,
    )


async def point_out(saga: Saga) -> bool:
    """Do what a sweep does now and then; tell whether it found an order to call off."""
    async with saga.yard.sessions.begin() as tx:
        return bool(await stage_expiries(tx, HOUR))


async def point_out_anyway(saga: Saga, order: UUID) -> None:
    """Have the expiry of an order staged, whoever thought that it should be."""
    async with saga.yard.sessions.begin() as tx:
        await stage(tx, [Staged(saga.tenant, ExpireReservation(order_id=order))])


async def expire(saga: Saga) -> None:
    await saga.deliver(ExpireReservation.kind)


async def somebody_waits(saga: Saga) -> bool:
    """Tell whether a transaction waits for a lock."""
    return bool(
        await saga.yard.sql(
            "SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


async def assert_expired(saga: Saga, order: UUID) -> None:
    assert (await saga.status(order), await saga.reason(order)) == (
        "cancelled",
        "reservation_expired",
    )
    assert await saga.shelf() == Shelf(5, 0)
    assert (await saga.payment_of(order))[1] == "cancelled"
    await saga.hurry()
    await saga.finish()
    assert (await saga.live_jobs(), await saga.charges(), await saga.ledger()) == ([], [], [])


async def assert_kept(saga: Saga, order: UUID) -> None:
    assert (await saga.status(order), await saga.shelf()) == ("reserved", Shelf(5, 1))
    assert (await saga.payment_of(order))[1] == "pending"


async def test_a_reservation_whose_charge_never_begins_expires(saga: Saga) -> None:
    order = await reserved(saga)
    assert not await point_out(saga), "it is not old yet"
    await grow_old(saga)
    assert await point_out(saga)
    assert not await point_out(saga), "once is enough"
    await expire(saga)
    await assert_expired(saga, order)


async def test_many_expire_at_once_and_each_gives_back_what_it_had(saga: Saga) -> None:
    await saga.put_in_stock(CD=50, LP=50)
    kept = [await saga.order(Line("CD", 1, 999), Line("LP", 2, 999)) for _ in range(5)]
    await saga.deliver(ProcessOrder.kind)
    await saga.deliver(ChargePayment.kind)
    gone = [await saga.order(Line("CD", 3, 999), Line("LP", 1, 999)) for _ in range(5)]
    await saga.deliver(ProcessOrder.kind)
    assert (await saga.shelf("CD"), await saga.shelf("LP")) == (Shelf(45, 15), Shelf(40, 5))
    await grow_old(saga)
    assert await point_out(saga)
    await expire(saga)
    assert {await saga.status(order) for order in gone} == {"cancelled"}
    assert {await saga.status(order) for order in kept} == {"paid"}
    assert (await saga.shelf("CD"), await saga.shelf("LP")) == (Shelf(45, 0), Shelf(40, 0))


async def test_a_charge_whose_message_is_on_its_way_is_called_off_and_the_message_finds_nothing(
    saga: Saga,
) -> None:
    order = await reserved(saga)
    deliveries = await saga.yard.dispatch(ChargePayment.kind)
    await grow_old(saga)
    assert await point_out(saga)
    await expire(saga)
    await saga.executor.run(ChargePayment.kind, deliveries)
    await saga.executor.drain()
    await assert_expired(saga, order)


async def test_a_charge_that_died_without_a_single_start_is_called_off(saga: Saga) -> None:
    """Its messages were lost on the way, each of them: nobody ever claimed it."""
    order = await reserved(saga)
    await saga.yard.sql(
        "UPDATE goodsyard.job SET lost = :budget - 1, state = 'dispatched', deadline = now()",
        budget=sweeper.CRASH_BUDGET,
    )
    async with saga.yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [ChargePayment], {})
    assert await saga.live_jobs() == [(ChargePayment.kind, "dead")]
    await grow_old(saga)
    assert await point_out(saga)
    await expire(saga)
    await assert_expired(saga, order)


async def claimed_and_lost(saga: Saga) -> None:
    """A worker claims the charge and dies, before or after it called: nobody can tell."""
    deliveries = await saga.yard.dispatch(ChargePayment.kind)
    async with saga.yard.sessions.begin() as tx:
        await claims.lease(tx, ChargePayment.kind, deliveries, worker=uuid4(), seconds=0)


async def lost_and_given_back(saga: Saga) -> None:
    """The same, and the sweeper has put it back since: it waits as if nothing had happened."""
    await claimed_and_lost(saga)
    async with saga.yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [ChargePayment], {})
    assert await saga.live_jobs() == CHARGE


async def unanswered(saga: Saga) -> None:
    """The gateway took the money, and the connection broke before it could say so."""
    await saga.fault("charge_then_drop")
    await saga.deliver(ChargePayment.kind)
    assert await saga.live_jobs() == CHARGE


async def dead_after_a_start(saga: Saga) -> None:
    """It was called, and is given up."""
    await saga.yard.sql("UPDATE goodsyard.job SET max_attempts = 1")
    await saga.fault("charge_then_drop")
    await saga.deliver(ChargePayment.kind)
    assert await saga.live_jobs() == [(ChargePayment.kind, "dead")]


async def dead_and_revived(saga: Saga) -> None:
    """It was called and given up, and a person has it tried again."""
    await dead_after_a_start(saga)
    await saga.yard.sql("UPDATE goodsyard.job SET state = 'waiting', attempts = 0, reason = NULL")


@pytest.mark.parametrize(
    "happened",
    [claimed_and_lost, lost_and_given_back, unanswered, dead_after_a_start, dead_and_revived],
)
async def test_goods_are_kept_wherever_a_charge_may_have_been_sent(
    saga: Saga, happened: Callable[[Saga], Awaitable[None]]
) -> None:
    order = await reserved(saga)
    await happened(saga)
    await grow_old(saga)
    assert not await point_out(saga)
    await point_out_anyway(saga, order)
    await expire(saga)
    await assert_kept(saga, order)


async def test_while_a_worker_claims_the_charge_the_order_is_not_called_off(saga: Saga) -> None:
    """Its claim isn't committed yet, so its mark can't be read: its lock has to do."""
    order = await reserved(saga)
    await grow_old(saga)
    assert await point_out(saga)
    deliveries = await saga.yard.dispatch(ChargePayment.kind)
    async with saga.yard.sessions.begin() as tx:
        await claims.lease(tx, ChargePayment.kind, deliveries, worker=uuid4(), seconds=60)
        await expire(saga)
        await assert_kept(saga, order)
    assert not await point_out(saga)


async def test_a_charge_that_is_claimed_while_its_order_is_called_off_is_never_sent(
    saga: Saga,
) -> None:
    """The claim waits for nobody: it finds the row locked, and later gone."""
    order = await reserved(saga)
    await grow_old(saga)
    await point_out_anyway(saga, order)
    expiries = await saga.yard.dispatch(ExpireReservation.kind)
    charges = await saga.yard.dispatch(ChargePayment.kind)
    async with saga.yard.sessions.begin() as tx:
        # The expiry stops at the stock, with the charge's job taken back and not yet committed.
        await tx.execute(text("SELECT FROM commerce.stock FOR UPDATE"))
        expiring = asyncio.create_task(saga.executor.run(ExpireReservation.kind, expiries))
        await until(lambda: somebody_waits(saga), "the expiry to wait for the stock")
        await saga.executor.run(ChargePayment.kind, charges)
    await expiring
    await saga.executor.drain()
    await assert_expired(saga, order)


async def test_an_order_that_is_called_off_by_its_customer_is_only_called_off_once(
    saga: Saga,
) -> None:
    order = await reserved(saga)
    await grow_old(saga)
    assert await point_out(saga)
    async with saga.yard.sessions.begin() as tx:
        await cancel_order(tx, saga.tenant, order)
    await expire(saga)
    assert (await saga.status(order), await saga.reason(order)) == ("cancelled", "cancelled")
    assert await saga.shelf() == Shelf(5, 0)


async def test_an_order_that_was_paid_meanwhile_stays_paid(saga: Saga) -> None:
    order = await reserved(saga)
    await grow_old(saga)
    assert await point_out(saga)
    await saga.deliver(ChargePayment.kind)
    await expire(saga)
    assert (await saga.status(order), await saga.shelf()) == ("paid", Shelf(4, 0))
