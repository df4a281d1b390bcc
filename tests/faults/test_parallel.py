"""Calls at the same moment, as no one person would make them, come to what one of them would.

Two APIs, a relay and workers that all really run; judged by the gateway's log and the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import UUID
from zlib import crc32

import httpx
import pytest

from tests.faults.conftest import System
from tests.harness.clients import CD, at_once, order_of
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Row, Shop

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("good_behaviour")]

PRICE = 1_499
CONFLICT = 409
AGAIN = {"/problems/request-in-flight", "/problems/busy"}


Post = Callable[[str, object, str], httpx.Response]


@pytest.fixture
def post(http: httpx.Client, urls: list[str]) -> Post:
    """POST to one API or the other, again under the same key where the answer says so.

    An equal call may be in flight; or others hold the order's lock for longer than one may wait.
    """

    def send(path: str, body: object, key: str) -> httpx.Response:
        for turn in range(200):
            url = urls[(crc32(key.encode()) + turn) % len(urls)]
            answer = http.post(f"{url}/v1{path}", json=body, headers={"Idempotency-Key": key})
            if problem(answer) not in AGAIN:
                return answer
        raise AssertionError(f"{path} is still being carried out")

    return send


def problem(answer: httpx.Response) -> str:
    return str(answer.json()["type"]) if answer.is_error else ""


def codes(answers: Sequence[httpx.Response]) -> Counter[int]:
    assert all(answer.status_code < 500 for answer in answers), [a.text for a in answers]
    return Counter(answer.status_code for answer in answers)


def ordered(shop: Shop, post: Post, *, key: str = "order") -> UUID:
    """Return an order of one CD that was accepted."""
    answer = post("/orders", order_of(shop), key)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["order"]["id"])


def paid(shop: Shop, post: Post) -> UUID:
    """Return an order of one CD that is paid."""
    order = ordered(shop, post)
    until_paid(shop, order)
    return order


def until_paid(shop: Shop, order: UUID) -> None:
    shop.until(lambda: shop.statuses()[order] == "paid", "the order to be paid")


def kept(shop: Shop) -> int:
    """Return what the gateway took of this shop's customers, less what it gave back."""
    intents = {
        row["gateway_id"]
        for row in shop.rows("SELECT gateway_id FROM commerce.payment WHERE tenant = %(tenant)s")
    }
    taken = sum(int(c["amount"]) for c in shop.charges() if c["status"] == "succeeded")
    back = sum(int(r["amount"]) for r in shop.sandbox.refunds() if r["payment_intent"] in intents)
    assert taken - back == booked(shop), "the gateway and the ledger don't agree"
    return taken - back


def booked(shop: Shop) -> int:
    """Return what the sales account has, by the ledger."""
    value: int = shop.value("""
        SELECT coalesce(sum(CASE WHEN c.code = 'sales' THEN t.amount ELSE -t.amount END), 0)::bigint
          FROM commerce.transfer t
          JOIN commerce.account d ON d.id = t.debit JOIN commerce.account c ON c.id = t.credit
         WHERE t.tenant = %(tenant)s AND 'sales' IN (c.code, d.code)""")
    return value


def settled(shop: Shop) -> None:
    """Let everything come to its end, as which it is then expected, and check all the laws."""
    shop.until_settled()
    shop.expected |= shop.statuses()
    assert_invariants(shop)


def shelf(shop: Shop, sku: str = "CD") -> Row:
    [row] = shop.rows(
        "SELECT on_hand, reserved FROM commerce.stock WHERE tenant = %(tenant)s AND sku = %(sku)s",
        sku=sku,
    )
    return row


@pytest.mark.row(number=35)
def test_of_a_hundred_pieces_that_five_thousand_want_exactly_a_hundred_are_sold(
    shop: Shop, post: Post
) -> None:
    shop.stock("rare", 100)
    wanted = order_of(shop, {"sku": "rare", "quantity": 1, "unit_amount": 999})

    def submit(part: int) -> httpx.Response:
        keys = (f"order-{part}-{number}" for number in range(500))
        return post("/orders/bulk", {"orders": [{**wanted, "idempotency_key": k} for k in keys]},
                    f"bulk-{part}")  # fmt: skip

    answers = at_once([partial(submit, part) for part in range(10)])
    results = [result["status"] for answer in answers for result in answer.json()["results"]]
    assert Counter(results) == {202: 5_000}
    shop.until_settled()

    assert shop.outcomes() == {"paid": 100, "rejected": 4_900}
    assert shelf(shop, "rare") == {"on_hand": 0, "reserved": 0}
    assert kept(shop) == 100 * 999
    settled(shop)  # who got one is decided by nobody but the winners


def test_fifty_equal_submits_get_fifty_equal_answers_and_one_order(shop: Shop, post: Post) -> None:
    submit = partial(post, "/orders", order_of(shop), "the one key")
    answers = at_once([submit] * 50)
    assert codes(answers) == {202: 50}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert len({answer.json()["order"]["id"] for answer in answers}) == 1
    assert len({answer.json()["job"]["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    settled(shop)
    assert shop.outcomes() == {"paid": 1}
    assert kept(shop) == PRICE


def test_of_refunds_at_once_no_more_is_given_back_than_was_paid(shop: Shop, post: Post) -> None:
    order = paid(shop, post)
    refund = [partial(post, f"/orders/{order}/refund", None, f"refund-{n}") for n in range(10)]
    assert codes(at_once(refund)) == {202: 1, CONFLICT: 9}
    settled(shop)
    assert (shop.outcomes(), kept(shop)) == ({"refunded": 1}, 0)


def test_of_partial_refunds_at_once_as_many_succeed_as_there_is_money_for(
    shop: Shop, post: Post
) -> None:
    order = paid(shop, post)
    part = {"amount": 400}
    refund = [partial(post, f"/orders/{order}/refund", part, f"refund-{n}") for n in range(10)]
    assert codes(at_once(refund)) == {202: 3, CONFLICT: 7}
    settled(shop)
    assert (shop.outcomes(), kept(shop)) == ({"paid": 1}, PRICE - 3 * 400)


def test_a_refund_that_is_sent_ten_times_at_once_moves_money_once(shop: Shop, post: Post) -> None:
    order = paid(shop, post)
    refund = partial(post, f"/orders/{order}/refund", {"amount": 400}, "the one refund")
    answers = at_once([refund] * 10)
    assert codes(answers) == {202: 10}
    assert len({answer.json()["job"]["id"] for answer in answers}) == 1
    settled(shop)
    assert kept(shop) == PRICE - 400


def test_an_order_that_ten_cancel_while_it_is_being_charged_is_given_back_once(
    shop: Shop, post: Post
) -> None:
    shop.sandbox.misbehave("latency", count=1, seconds=1)
    order = ordered(shop, post)
    running = "SELECT count(*) FROM goodsyard.job WHERE tenant = %(tenant)s AND state = 'running'"
    shop.until(lambda: shop.value(running) == 1, "the charge to be at the gateway")
    cancel = [partial(post, f"/orders/{order}/cancel", None, f"cancel-{n}") for n in range(10)]
    answers = codes(at_once(cancel))
    assert answers[202] >= 1
    assert answers.keys() <= {202, CONFLICT}
    settled(shop)
    assert (shop.outcomes(), kept(shop), booked(shop)) == ({"refunded": 1}, 0, 0)
    assert shelf(shop) == {"on_hand": shop.stocked["CD"], "reserved": 0}


def test_cancels_and_refunds_of_one_order_at_once_give_its_price_back_once(
    shop: Shop, post: Post
) -> None:
    for number in range(5):
        order = ordered(shop, post, key=f"order-{number}")
        until_paid(shop, order)
        calls = [
            partial(post, f"/orders/{order}/{verb}", None, f"{verb}-{number}-{n}")
            for n in range(5)
            for verb in ("cancel", "refund")
        ]
        answers = codes(at_once(calls))
        assert 1 <= answers[202] <= 2, "a cancel, a refund, or a cancel of what is being refunded"
        assert answers.keys() == {202, CONFLICT}
    settled(shop)
    assert (shop.outcomes(), kept(shop)) == ({"refunded": 5}, 0)


def test_a_user_who_is_deleted_while_ordering_is_gone_or_served_never_both(
    shop: Shop, post: Post, http: httpx.Client, urls: list[str]
) -> None:
    users = []
    for number in range(6):
        name = f"user-{number}"
        body = {"email": f"{name}@of-{shop.tenant}.example", "username": name}
        users.append(post("/users", body, name).json()["id"])

    def order(user: str, n: int) -> tuple[str, httpx.Response]:
        return user, post("/orders", order_of(shop) | {"user_id": user}, f"order-{user}-{n}")

    def delete(user: str, n: int) -> tuple[str, httpx.Response]:
        return user, http.delete(f"{urls[n % 2]}/v1/users/{user}")

    calls = [partial(call, user, n) for n in range(3) for user in users for call in (order, delete)]
    answers = at_once(calls)
    assert codes([answer for _, answer in answers]).keys() <= {202, 204, 404, CONFLICT, 422}
    accepted = [UUID(a.json()["order"]["id"]) for _, a in answers if a.status_code == 202]
    gone = Counter(user for user, answer in answers if answer.status_code == 204)
    assert all(times == 1 for times in gone.values()), "nobody is deleted twice"
    not_yet = {problem(a) for _, a in answers if a.status_code == CONFLICT}
    assert not_yet <= {"/problems/open-orders", "/problems/mail-under-way"}

    shop.until_settled()
    assert {shop.statuses()[order] for order in accepted} <= {"paid"}
    assert len(shop.statuses()) == len(accepted), "what was refused left nothing behind"
    for user in users:
        assert http.delete(f"{urls[0]}/v1/users/{user}").status_code == (
            404 if user in gone else 204
        )
    assert kept(shop) == PRICE * len(accepted)
    assert_invariants(shop)


def test_stock_that_is_adjusted_while_it_is_sold_adds_up(shop: Shop, post: Post) -> None:
    shop.stock("busy", 100)
    line = CD | {"sku": "busy"}
    orders = [partial(post, "/orders", order_of(shop, line), f"order-{n}") for n in range(150)]
    changes = [20, -1, -1, -7, 5, -3, 2, 11, -30, 4]
    adjust = [
        partial(post, "/stock/busy/adjust", {"by": by, "reason": "recount"}, f"adjust-{n}")
        for n, by in enumerate(changes)
    ]
    with ThreadPoolExecutor(2) as both:
        selling, adjusting = both.submit(crowd, orders), both.submit(crowd, adjust)
    assert codes(selling.result()) == {202: 150}
    adjusted = adjusting.result()
    assert codes(adjusted).keys() <= {200, CONFLICT}
    done = [by for by, a in zip(changes, adjusted, strict=True) if a.status_code == 200]
    shop.stocked["busy"] += sum(done)
    settled(shop)
    sold = shop.outcomes()["paid"]
    assert shelf(shop, "busy") == {"on_hand": 100 + sum(done) - sold, "reserved": 0}
    assert kept(shop) == PRICE * sold


def test_stock_that_is_counted_while_it_is_sold_is_never_below_what_was_promised(
    shop: Shop, post: Post, http: httpx.Client, urls: list[str]
) -> None:
    shop.stock("counted", 30)
    line = CD | {"sku": "counted"}
    orders = [partial(post, "/orders", order_of(shop, line), f"order-{n}") for n in range(60)]
    counts = [
        partial(http.put, f"{urls[n % 2]}/v1/stock/counted", json={"on_hand": n % 7})
        for n in range(40)
    ]
    with ThreadPoolExecutor(2) as both:
        selling, counting = both.submit(crowd, orders), both.submit(crowd, counts)
    assert codes(selling.result()) == {202: 60}
    counted = codes(counting.result())
    assert counted.keys() <= {200, CONFLICT}
    shop.until_settled()
    left = shelf(shop, "counted")
    shop.stocked["counted"] = left["on_hand"] + shop.outcomes()["paid"]  # as the last count has it
    settled(shop)
    assert left["reserved"] == 0
    assert kept(shop) == PRICE * shop.outcomes()["paid"]


def test_opposing_transfers_at_once_lose_nothing_and_never_wait_in_a_circle(
    system: System, shop: Shop, post: Post, http: httpx.Client, urls: list[str]
) -> None:
    def opened(code: str, **fields: object) -> str:
        answer = post("/accounts", {"code": code, "currency": "EUR", **fields}, code)
        assert answer.status_code == 201, answer.text
        account: str = answer.json()["id"]
        return account

    def transfer(payer: str, payee: str, amount: int, key: str) -> httpx.Response:
        body = {"from_account": payer, "to_account": payee, "amount": amount, "currency": "EUR"}
        return post("/transfers", body, key)

    world, ann, ben, eve = (opened("world", may_overdraw=True), *map(opened, ("ann", "ben", "eve")))
    for number, account in enumerate((ann, ben, eve)):
        assert transfer(world, account, 100, f"funds-{number}").status_code == 201
    began = system.postgres.log.stat().st_size
    ways = [(ann, ben), (ben, ann), (ben, eve), (eve, ben), (eve, ann), (ann, eve)]
    moves = [
        partial(transfer, *way, 30, f"move-{turn}-{number}")
        for turn in range(8)
        for number, way in enumerate(ways)
    ]
    assert codes(at_once(moves)).keys() <= {201, CONFLICT}

    balances = [
        http.get(f"{urls[0]}/v1/accounts/{account}").json()["balance"]["amount"]
        for account in (ann, ben, eve)
    ]
    assert sum(balances) == 300
    assert min(balances) >= 0
    [euros] = http.get(f"{urls[1]}/v1/reports/trial-balance").json()["currencies"]
    assert euros["balanced"], euros
    assert system.postgres.log.read_bytes()[began:].count(b"deadlock detected") == 0


def crowd(calls: Sequence[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    """Make all the calls, ten at a time."""
    with ThreadPoolExecutor(10) as pool:
        return list(pool.map(lambda call: call(), calls))
