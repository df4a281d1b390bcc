"""A mail goes out once unless its sender is killed or the reply is lost, and then under one id."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.contracts import SendEmail
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("good_behaviour")]


def copies(shop: Shop) -> int:
    """Return how many mails came that had come before; all that are due must have come."""
    mails = Counter(mail["message_id"] for mail in shop.mails())
    assert len(mails) == Counter(shop.expected.values())["paid"]
    return mails.total() - len(mails)


def test_without_a_fault_no_mail_comes_twice(shop: Shop) -> None:
    shop.order(200)
    shop.until_settled()
    assert copies(shop) == 0
    assert_invariants(shop)


@pytest.mark.long
@pytest.mark.slow
def test_a_mail_server_that_takes_a_second_for_each_gets_none_twice(shop: Shop) -> None:
    shop.sandbox.misbehave("mail_latency", count=100_000, seconds=1)
    shop.order(300)  # 240 mails, eight at a time: the last waits for half a minute
    shop.until(shop.is_settled, "all orders to come to their end", 120)
    assert copies(shop) == 0
    attempts = shop.value(
        "SELECT max(attempts) FROM goodsyard.job_done"
        " WHERE tenant = %(tenant)s AND kind = %(kind)s",
        kind=SendEmail.kind,
    )
    assert attempts == 0, "waiting for a turn is no failure"
    assert_invariants(shop)


def test_a_mail_whose_reply_is_lost_comes_once_more_under_its_id(shop: Shop) -> None:
    shop.sandbox.misbehave("mail_drop_after_data", count=7)
    shop.order(50)
    shop.until_settled()
    assert copies(shop) == 7
    assert_invariants(shop)


@pytest.mark.long
def test_of_a_killed_worker_only_the_mails_in_flight_come_twice(system: System, shop: Shop) -> None:
    shop.sandbox.misbehave("mail_latency", count=100_000, seconds=0.2)
    shop.order(100)
    shop.until(lambda: len(shop.mails()) >= 20, "20 mails")
    system.worker.kill()
    in_flight = len(taken_and_not_written_down(shop)) + arriving()
    system.worker.start()
    shop.until_settled()
    print(f"{copies(shop)} extra copies, {in_flight} mails in flight at the kill")  # noqa: T201 - see -rP
    assert copies(shop) <= in_flight
    assert_invariants(shop)


def taken_and_not_written_down(shop: Shop) -> set[str]:
    """Return the jobs whose mails have come, and that nobody knows of."""
    live = shop.rows(
        "SELECT id::text FROM goodsyard.job WHERE tenant = %(tenant)s AND kind = %(kind)s",
        kind=SendEmail.kind,
    )
    sent = {mail["message_id"].strip("<").partition("@")[0] for mail in shop.mails()}
    return sent & {row["id"] for row in live}


def arriving() -> int:
    """Return how many mails of the two dead processes may still be on their way to the server."""
    assert SendEmail.policy.abreast is not None
    return 2 * SendEmail.policy.abreast
