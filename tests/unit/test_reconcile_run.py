"""A reconciliation says how far it has read, and reads no further once it is called off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from commerce.payments.reconciliation import Period
from goodsyard.job import Job
from goodsyard.run import JobCancelledError, Run
from tasks.contracts import ReconcilePayments
from tasks.reconciliation import Reconcile
from tests.unit.test_gateway import Script, Scripted

SINCE = datetime(2026, 11, 1, tzinfo=UTC)
OLDEST_READ = int((SINCE - Period.MARGIN).timestamp())
FIRST = "get /v1/payment_intents?limit=100"
SECOND = "get /v1/payment_intents?limit=100&starting_after=pi_2"
REFUNDS = "get /v1/refunds?limit=100"


def intent(name: str, seconds: int) -> dict[str, object]:
    """Return an intent made so many seconds after the first moment that is read."""
    return {
        "id": name,
        "status": "canceled",
        "amount": 1,
        "currency": "eur",
        "created": OLDEST_READ + seconds,
    }


def script() -> Script:
    """Return a gateway with two pages of intents and one of refunds."""
    return Script(
        {
            FIRST: (200, {"data": [intent("pi_1", 1_000), intent("pi_2", 400)], "has_more": True}),
            SECOND: (200, {"data": [intent("pi_3", 10)], "has_more": False}),
            REFUNDS: (200, {"data": [], "has_more": False}),
        }
    )


def job_with(run: Run) -> Job[ReconcilePayments]:
    payload = ReconcilePayments(since=SINCE, until=SINCE + timedelta(days=1))
    return Job(uuid4(), 1, 0.0, payload, run)


async def test_each_page_is_a_step_on_the_way_back_to_the_periods_beginning() -> None:
    class Remembering(Run):
        said: list[float] = []  # noqa: RUF012 - one run

        def progress(self, fraction: float, text: str = "") -> None:
            self.said.append(fraction)

    run = Remembering()
    await Reconcile(Scripted(script())).call(job_with(run))
    assert run.said == [0.3, 0.5, 1.0]


async def test_once_called_off_no_further_page_is_read() -> None:
    run, gateway = Run(), script()
    run.call_off()
    with pytest.raises(JobCancelledError):
        await Reconcile(Scripted(gateway)).call(job_with(run))
    assert gateway.asked == [FIRST]
