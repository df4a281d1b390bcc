"""A reconciliation finds whatever one side has and the other hasn't, and touches neither."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from goodsyard.job import JobState
from goodsyard.submit import Staged, stage
from tasks.cancellation import refund_order
from tasks.contracts import ReconcilePayments
from tests.saga import VISA, Saga

Report = dict[str, Any]  # Any: JSON


async def reconcile(saga: Saga) -> Report:
    """Compare the last hour, and return the report."""
    now = datetime.now(UTC)
    period = ReconcilePayments(since=now - timedelta(hours=1), until=now + timedelta(hours=1))
    async with saga.yard.sessions.begin() as tx:
        staged = Staged(saga.tenant, period)
        await stage(tx, [staged])
    await saga.deliver(ReconcilePayments.kind)
    ((state, result),) = await saga.yard.sql(
        "SELECT state::text, result FROM goodsyard.job_done WHERE id = :id", id=staged.id
    )
    assert state == JobState.SUCCEEDED
    report: Report = result
    return report


async def sold_and_given_back(saga: Saga) -> tuple[UUID, str]:
    """Sell two pieces, give 500 of one back; return that one's payment and its gateway's name."""
    await saga.put_in_stock(CD=5)
    await saga.order()
    order = await saga.order()
    await saga.finish()
    async with saga.yard.sessions.begin() as tx:
        await refund_order(tx, saga.tenant, order, 500)
    await saga.finish()
    payment, _ = await saga.payment_of(order)
    ((gateway_id,),) = await saga.yard.sql(
        "SELECT gateway_id FROM commerce.payment WHERE id = :id", id=payment
    )
    return payment, str(gateway_id)


async def at_the_gateway(saga: Saga, path: str, key: str, **form: object) -> str:
    """Do something at the gateway without us, and return its name there."""
    answer = await saga.http.post(
        path,
        data={name: str(value) for name, value in form.items()},
        headers={"Authorization": "Bearer sk_test_by_hand", "Idempotency-Key": key},
    )
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


async def change_the_ledger(saga: Saga, statement: str) -> None:
    """Do to the ledger what it would refuse."""
    await saga.yard.sql(
        f"DO $$ BEGIN SET LOCAL session_replication_role = replica; {statement}; END $$"
    )


async def differences(saga: Saga) -> Counter[str]:
    """Return how many differences of each kind there are; other tests' charges are some."""
    report = await reconcile(saga)
    return Counter(
        {
            f"{kind}: {name}": count
            for kind in ("charges", "refunds")
            for name, count in report[kind]["counts"].items()
        }
    )


async def test_what_both_sides_have_is_no_difference(saga: Saga) -> None:
    before = await differences(saga)
    await sold_and_given_back(saga)
    assert await differences(saga) == before
    report = await reconcile(saga)
    assert (report["charges"]["booked"], report["refunds"]["booked"]) == (2, 1)


async def test_what_the_gateway_took_without_us_is_found(saga: Saga) -> None:
    await sold_and_given_back(saga)
    charge = {"amount": 1, "currency": "eur", "payment_method": VISA, "confirm": "true"}
    name = await at_the_gateway(
        saga, "/v1/payment_intents", str(saga.tenant), **charge, **{"metadata[payment_id]": "none"}
    )
    report = await reconcile(saga)
    assert not report["balanced"]
    assert name in [charge["gateway_id"] for charge in report["charges"]["gateway_only"]]


async def test_what_the_gateway_gave_back_without_us_is_found(saga: Saga) -> None:
    _, charge = await sold_and_given_back(saga)
    name = await at_the_gateway(saga, "/v1/refunds", f"by hand {charge}", payment_intent=charge)
    report = await reconcile(saga)
    assert name in [refund["gateway_id"] for refund in report["refunds"]["gateway_only"]]
    assert not report["balanced"]


async def test_what_the_gateway_gave_back_twice_under_one_name_is_found(saga: Saga) -> None:
    payment, charge = await sold_and_given_back(saga)
    ((code,),) = await saga.yard.sql(
        "SELECT code FROM commerce.transfer WHERE payment_id = :id AND code LIKE 'refund:%'",
        id=payment,
    )
    before = await differences(saga)
    again = {"amount": 500, "metadata[refund_id]": str(code).partition(":")[2]}
    await at_the_gateway(saga, "/v1/refunds", f"again {charge}", payment_intent=charge, **again)
    assert await differences(saga) - before == {"refunds: gateway_only": 1}


@pytest.mark.parametrize(
    ("code", "kind", "lost"), [("capture", "charges", 2), ("refund", "refunds", 1)]
)
async def test_what_is_at_the_gateway_and_not_in_our_books_is_found(
    saga: Saga, code: str, kind: str, lost: int
) -> None:
    await sold_and_given_back(saga)
    before = await differences(saga)
    await change_the_ledger(saga, f"DELETE FROM commerce.transfer WHERE code LIKE '{code}%'")  # noqa: S608 - ours
    assert await differences(saga) - before == {f"{kind}: gateway_only": lost}


async def test_what_is_in_our_books_and_not_at_the_gateway_is_found(saga: Saga) -> None:
    payment, _ = await sold_and_given_back(saga)
    before = await differences(saga)
    await saga.yard.sql(
        "UPDATE commerce.payment SET gateway_id = 'pi_gone' WHERE id = :id", id=payment
    )
    assert await differences(saga) - before == {
        "charges: gateway_only": 1,
        "charges: books_only": 1,
        "refunds: otherwise": 1,
    }


async def test_another_amount_is_found(saga: Saga) -> None:
    await sold_and_given_back(saga)
    before = await differences(saga)
    await change_the_ledger(saga, "UPDATE commerce.transfer SET amount = amount - 1")
    after = await differences(saga)
    assert after - before == {"charges: otherwise": 2, "refunds: otherwise": 1}


async def test_a_report_changes_nothing(saga: Saga) -> None:
    await sold_and_given_back(saga)
    await change_the_ledger(saga, "DELETE FROM commerce.transfer WHERE code = 'capture'")
    before = (await saga.ledger(), await saga.charges(), await saga.refunds())
    await reconcile(saga)
    assert (await saga.ledger(), await saga.charges(), await saga.refunds()) == before


async def test_what_another_tenant_sold_is_no_difference_of_ours(saga: Saga) -> None:
    before = await differences(saga)
    await sold_and_given_back(saga)
    await saga.yard.sql("UPDATE commerce.payment SET tenant = tenant + 1")
    await change_the_ledger(saga, "UPDATE commerce.transfer SET tenant = tenant + 1")
    assert await differences(saga) == before
