"""Clients may repeat themselves, contradict themselves and change their minds, all at once."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import UUID

import httpx
import pytest

from tests.harness.clients import CD, at_once, order_of
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Row, Shop

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("good_behaviour")]


@pytest.mark.row(number=38)
@pytest.mark.parametrize("bodies", [1, 2, 50], ids=["one body", "two bodies", "fifty bodies"])
def test_of_fifty_requests_with_one_key_one_makes_an_order(
    shop: Shop, http: httpx.Client, urls: list[str], bodies: int
) -> None:
    for number in range(3):

        def submit(which: int, key: str = f"key-{number}") -> httpx.Response:
            order = order_of(shop, CD | {"quantity": 1 + which % bodies})
            url = f"{urls[which // 2 % 2]}/v1/orders"
            return http.post(url, json=order, headers={"Idempotency-Key": key})

        answers = at_once([partial(submit, which) for which in range(50)])
        assert {answer.status_code for answer in answers} <= {202, 409, 422}
        accepted = {a.json()["order"]["id"] for a in answers if a.status_code == 202}
        assert len(accepted) == 1
        if bodies == 1:
            assert {answer.status_code for answer in answers} <= {202, 409}
        shop.expected[UUID(accepted.pop())] = "paid"
    shop.until_settled()
    assert sum(shop.outcomes().values()) == 3
    assert_invariants(shop)


@pytest.mark.row(number=39)
def test_whatever_a_cancel_races_with_a_cancelled_order_costs_nothing(
    shop: Shop, http: httpx.Client, urls: list[str]
) -> None:
    seed = random.randrange(2**32)  # noqa: S311 - a choice of moments
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    chance = random.Random(seed)  # noqa: S311 - the same
    shop.sandbox.misbehave("latency", count=100_000, seconds=0.2)  # charges are out for a while
    moments = ("", "", "reserved", "charging", "charging", "paid")
    plan = [(number, chance.choice(moments), chance.random() < 0.3) for number in range(50)]

    def live(number: int, moment: str, *, keep: bool) -> tuple[UUID, int | None]:
        url = f"{urls[number % 2]}/v1/orders"
        with httpx.Client(headers=http.headers, timeout=http.timeout) as client:
            key = {"Idempotency-Key": f"order-{number}"}
            answer = client.post(url, json=order_of(shop), headers=key)
            order = UUID(answer.json()["order"]["id"])
            if keep:
                return order, None
            _until(shop, order, moment)
            return order, client.post(f"{url}/{order}/cancel").status_code

    with ThreadPoolExecutor(12) as pool:
        ends = list(pool.map(lambda one: live(one[0], one[1], keep=one[2]), plan))
    shop.until_settled()

    found = shop.statuses()
    print(f"{Counter((code, found[order]) for order, code in ends)}")  # noqa: T201 - see -rP
    for order, code in ends:
        assert code in {None, 202}, "there is always something to call off"
        assert found[order] in ({"paid"} if code is None else {"cancelled", "refunded"})
        shop.expected[order] = found[order]
    assert {found[order] for order, code in ends if code} == {"cancelled", "refunded"}
    assert all(_net(shop, order) == (1_499 if code is None else 0) for order, code in ends)
    assert_invariants(shop)


def _until(shop: Shop, order: UUID, moment: str) -> None:
    """Wait until the order is at a moment of its life, or past it."""
    query = "SELECT status::text FROM commerce.orders WHERE id = %(id)s"
    if moment == "charging":
        query = """
            SELECT coalesce(max(j.state::text), o.status::text) FROM commerce.orders o
              LEFT JOIN commerce.payment p ON p.order_id = o.id
              LEFT JOIN goodsyard.job j ON j.subject = p.id AND j.state = 'running'
             WHERE o.id = %(id)s GROUP BY o.status"""
    wanted = {"": {"pending"}, "reserved": {"reserved"}, "charging": {"running"}}.get(moment, set())
    shop.until(lambda: moment == "" or shop.value(query, id=order) in wanted | {"paid"}, moment)


def _net(shop: Shop, order: UUID) -> int:
    """Return what the gateway has taken for an order, less what it gave back."""
    payments = shop.rows(
        "SELECT id::text, gateway_id FROM commerce.payment WHERE order_id = %(id)s", id=order
    )
    keys = {f"{payment['id']}:charge" for payment in payments}
    intents = {payment["gateway_id"] for payment in payments if payment["gateway_id"]}
    taken = sum(int(c["amount"]) for c in shop.sandbox.charges() if c["idempotency_key"] in keys)
    refunds = [one for one in shop.sandbox.refunds() if one["payment_intent"] in intents]
    return taken - sum(int(one["amount"]) for one in refunds)


@pytest.mark.row(number=40)
def test_a_dead_job_that_three_people_replay_at_once_takes_effect_once(
    shop: Shop, http: httpx.Client, urls: list[str]
) -> None:
    dead = dead_charges(shop)
    shop.sandbox.behave()
    for number, job in enumerate(dead):
        calls = [
            partial(http.post, f"{url}/v1/jobs/{job}/retry") for url in (urls[number % 2], *urls)
        ]
        codes = sorted(answer.status_code for answer in at_once(calls))
        assert codes == [202, 409, 409], codes
    shop.until_settled()
    assert audited(shop) == Counter(dead)
    assert_invariants(shop)


@pytest.mark.row(number=40)
def test_dead_jobs_that_three_people_replay_by_one_filter_take_effect_once(
    shop: Shop, http: httpx.Client, urls: list[str]
) -> None:
    dead = dead_charges(shop)
    shop.sandbox.behave()
    wanted = {"kind": "payments.charge", "reason": "attempts"}
    answers = at_once(
        [partial(http.post, f"{url}/v1/jobs/retry", json=wanted) for url in (urls[0], *urls)]
    )
    assert [answer.status_code for answer in answers] == [202] * 3
    revived = [job for answer in answers for job in answer.json()["ids"]]
    assert Counter(revived) == Counter(dead), "each by one of the three"
    shop.until_settled()
    assert audited(shop) == Counter(dead)
    assert_invariants(shop)


def dead_charges(shop: Shop) -> list[str]:
    """Have some orders whose charges the gateway failed until they were given up."""
    shop.sandbox.misbehave("429", count=100_000, seconds=1)
    shop.order(10)
    query = """
        UPDATE goodsyard.job SET max_attempts = 2
         WHERE tenant = %(tenant)s AND kind = 'payments.charge' AND max_attempts <> 2
        RETURNING state"""

    def given_up() -> list[Row]:
        shop.rows(query)
        return [row for row in shop.jobs() if row["state"] == "dead"]

    shop.until(lambda: sum(row["count"] for row in given_up()) == 8, "eight dead charges")
    rows = shop.rows("SELECT id::text FROM goodsyard.job WHERE tenant = %(tenant)s")
    return [row["id"] for row in rows]


def audited(shop: Shop) -> Counter[str]:
    """Return how often each job was replayed, as written down."""
    rows = shop.rows(
        "SELECT target FROM goodsyard.audit WHERE tenant = %(tenant)s AND action = 'job.retry'"
    )
    return Counter(row["target"] for row in rows)
