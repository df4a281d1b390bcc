"""A receipt that can't be sent is its own job's end, and nothing else's."""

from __future__ import annotations

from tasks.contracts import SendEmail
from tests.saga import Saga


async def test_an_address_that_is_none_costs_the_receipt_and_not_the_booking(saga: Saga) -> None:
    """However it got among the users: the charge has happened, and is written down."""
    await saga.put_in_stock(CD=5)
    await saga.yard.sql("UPDATE commerce.users SET email = 'ann, eve@example.com'")
    order = await saga.order()
    await saga.finish()
    assert await saga.status(order) == "paid"
    assert len(await saga.ledger()) == 1
    assert await saga.live_jobs() == [(SendEmail.kind, "dead")]
    assert await saga.mails() == []
