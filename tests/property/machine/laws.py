"""What must hold at every moment of a shop, and what must hold once all is quiet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from commerce.payments.rules import KEY_SECONDS
from goodsyard.outcomes import UNCERTAIN
from tests.property.machine.books import Row
from tests.property.machine.providers import DECLINED
from tests.property.machine.shop import Shop

REACHABLE = {
    "pending": {"reserved", "paid", "rejected", "payment_failed", "cancelled", "refunded"},
    "reserved": {"paid", "payment_failed", "cancelled", "refunded"},
    "paid": {"refunded", "cancelled"},  # cancelled: a free one, which has nothing to give back
    "rejected": set[str](),
    "payment_failed": set[str](),
    "cancelled": set[str](),
    "refunded": set[str](),
}

FITTING = {
    "pending": {"reserved"},
    "succeeded": {"paid", "refunded"},
    "failed": {"payment_failed"},
    "cancelled": {"cancelled"},
}
"""Where an order stands, by the state of its payment."""

Snapshot = dict[str, Any]  # tables as JSON


class Laws:
    """Holds a shop to its laws; remembers what it looked like before."""

    def __init__(self, shop: Shop, shelves: dict[str, int]) -> None:
        """Judge ``shop``, which opened with so many pieces on its shelves."""
        self._shop = shop
        self._shelves = shelves
        self._seen: object = None
        self._before: Snapshot = {"orders": {}, "live": {}, "over": {}}
        self._interrupted: Counter[str] = Counter()

    def check(self) -> None:
        """Check what must always hold, unless nothing has happened since the last time."""
        shop = self._shop
        self._require([f"{name} waits for its claim" for name in shop.boundaries.held_up_at_once()])
        seen = (
            shop.boundaries.commits,
            len(shop.gateway.charges),
            len(shop.gateway.refunds),
            len(shop.boundaries.raised),
            len(shop.gateway.wrong),
        )
        if seen == self._seen:
            return
        now = shop.books.read()
        wrong = [
            *shop.boundaries.raised,
            *shop.gateway.wrong,
            *self._changes(now),
            *self._gateway(now),
            *self._stock(now),
            *self._ledger(now),
            *(f"a backstop was hit: {e}" for e in now["errors"] if "IntegrityError" in e),
        ]
        self._require(wrong)
        self._seen, self._before = seen, now
        shop.boundaries.forget_commits()

    def check_the_end(self) -> None:
        """Check what must hold once everything that can run has run."""
        self.check()
        now = self._before
        excused = self._excused(now)
        self._require(
            [
                *(f"left over: {j}" for key, j in now["live"].items() if key not in excused),
                *self._accepted(now, {str(now["live"][key]["subject"]) for key in excused}),
                *self._totals(now, excused),
                *self._mails(now),
                *self._reports(now),
            ]
        )

    @property
    def dead(self) -> bool:
        """Whether a job is dead."""
        return any(job["state"] == "dead" for job in self._before["live"].values())

    def is_quiet(self) -> bool:
        """Whether nothing is left that could still run."""
        return set(self._before["live"]) == self._excused(self._before)

    def _excused(self, now: Snapshot) -> set[str]:
        """Return the jobs that are for a person: too old for their key to be relied on."""
        aged = self._shop.elapsed > KEY_SECONDS
        return {key for key, job in now["live"].items() if job["reason"] == UNCERTAIN and aged}

    def _require(self, wrong: list[str]) -> None:
        assert not wrong, "\n".join(wrong)

    # At every moment

    def _changes(self, now: Snapshot) -> Iterator[str]:
        """States follow each other as they may, fences grow, and only their holder ends a job."""
        for key, order in self._before["orders"].items():
            status = now["orders"][key]["status"]
            if status != order["status"] and status not in REACHABLE[order["status"]]:
                yield f"order {key} went from {order['status']} to {status}"
        before = self._before["live"] | self._before["over"]
        both = now["live"].keys() & now["over"].keys()
        yield from (f"job {key} is alive and over" for key in both)
        after = now["live"] | now["over"]
        yield from (f"job {key} is gone" for key in before.keys() - after.keys())
        yield from (f"job {k} came back" for k in self._before["over"].keys() & now["live"].keys())
        for key, job in after.items():
            was = before.get(key, {"fence": 0, "attempts": 0, "lost": 0, "state": "waiting"})
            if job["fence"] < was["fence"]:
                yield f"the fence of job {key} fell from {was['fence']} to {job['fence']}"
            failed, lost = job["attempts"] - was["attempts"], job["lost"] - was["lost"]
            self._interrupted[key] += max(0, failed) + max(0, lost)
            ended = job["state"] == "succeeded" != was["state"] or failed > 0
            if ended and (UUID(key), job["fence"]) not in self._shop.boundaries.committed:
                yield f"{job['kind']} {key} was ended by somebody without fence {job['fence']}"

    def _gateway(self, now: Snapshot) -> Iterator[str]:
        """A payment is charged once at the most, with its amount, to a card that pays."""
        charges = Counter(charge.of for charge in self._shop.gateway.charges)
        yield from (f"payment {p} was charged {n} times" for p, n in charges.items() if n > 1)
        for charge in self._shop.gateway.charges:
            payment = now["payments"].get(charge.of)
            if payment is None:
                yield f"a charge of no payment: {charge}"
            elif payment["amount"] != charge.amount or payment["payment_method"] == DECLINED:
                yield f"{charge} does not fit {payment}"
            elif payment["state"] in {"failed", "cancelled"}:
                yield f"{charge} is of a payment that is {payment['state']}"
        refunds = Counter(refund.of for refund in self._shop.gateway.refunds)
        yield from (f"refund {r} was made {n} times" for r, n in refunds.items() if n > 1)

    def _stock(self, now: Snapshot) -> Iterator[str]:
        """What was there at first is there, set aside for an order under way, or sold."""
        held: Counter[str] = Counter()
        sold: Counter[str] = Counter()
        for line in now["lines"]:
            order = now["orders"][line["order_id"]]
            if order["status"] == "reserved":
                held[line["sku"]] += line["quantity"]
            elif order["status"] in {"paid", "refunded"} and not order["cancel_requested"]:
                sold[line["sku"]] += line["quantity"]
        for sku, shelf in now["stock"].items():
            if not 0 <= shelf["reserved"] <= shelf["on_hand"]:
                yield f"oversold: {shelf}"
            if shelf["reserved"] != held[sku]:
                yield f"{held[sku]} pieces are held by orders: {shelf}"
            if shelf["on_hand"] + sold[sku] != self._shelves[sku]:
                yield f"{sold[sku]} pieces of {self._shelves[sku]} are sold: {shelf}"

    def _ledger(self, now: Snapshot) -> Iterator[str]:
        """The ledger says what payments and orders say, and nothing that the gateway didn't do."""
        booked: defaultdict[str, list[Row]] = defaultdict(list)
        for transfer in now["transfers"]:
            booked[transfer["payment_id"]].append(transfer)
        charged = {charge.id: charge for charge in self._shop.gateway.charges}
        given_back = {refund.of: refund.amount for refund in self._shop.gateway.refunds}
        for key, payment in now["payments"].items():
            captures = [t["amount"] for t in booked[key] if t["code"] == "capture"]
            due = [payment["amount"]] if payment["state"] == "succeeded" else []
            if captures != due:
                yield f"{captures} was captured, {due} is due: {payment}"
            if due and payment["gateway_id"] not in charged:
                yield f"the gateway knows nothing of {payment}"
            refunds = {t["code"]: t["amount"] for t in booked[key] if t["code"] != "capture"}
            if sum(refunds.values()) != payment["amount_refunded"]:
                yield f"{refunds} were booked: {payment}"
            for code, amount in refunds.items():
                if given_back.get(code.removeprefix("refund:")) != amount:
                    yield f"{code} of {amount} was never made"
            order = now["orders"][payment["order_id"]]
            if due and order["amount_refunded"] != payment["amount_refunded"]:
                yield f"{order} and {payment} differ in what was given back"
            if order["status"] not in FITTING[payment["state"]]:
                yield f"{order} has {payment}"

    # Once all is quiet

    def _accepted(self, now: Snapshot, excused: set[str]) -> Iterator[str]:
        """Each order that was accepted came to an end, and to the one it was asked to."""
        payments = {payment["order_id"]: payment for payment in now["payments"].values()}
        for key, order in now["orders"].items():
            payment = payments.get(key)
            if order["status"] in {"pending", "reserved"} and not (
                payment and payment["id"] in excused
            ):
                yield f"never came to an end: {order}"
        for key in self._shop.answers.orders.values():
            if key not in now["orders"]:
                yield f"order {key} was accepted and is lost"
        for key in self._shop.answers.cancelled:
            order, payment = now["orders"][key], payments.get(key)
            if payment and payment["id"] in excused:
                continue
            if order["status"] not in {"cancelled", "refunded", "payment_failed"}:
                yield f"was to be cancelled: {order}"
            if payment and payment["state"] == "succeeded" and order["status"] != "refunded":
                yield f"was to be given back: {payment}"

    def _totals(self, now: Snapshot, excused: set[str]) -> Iterator[str]:
        """The ledger has all that the gateway did, and nothing else."""
        codes = Counter((t["payment_id"], t["code"], t["amount"]) for t in now["transfers"])
        payments = {p["gateway_id"]: key for key, p in now["payments"].items()}
        unknown = {str(now["live"][key]["payload"].get("refund_id")) for key in excused}
        done = Counter((c.of, "capture", c.amount) for c in self._shop.gateway.charges)
        done += Counter(
            (payments.get(r.intent, "none"), f"refund:{r.of}", r.amount)
            for r in self._shop.gateway.refunds
            if r.of not in unknown
        )
        if codes != done:
            yield f"only in the ledger: {codes - done}; only at the gateway: {done - codes}"

    def _mails(self, now: Snapshot) -> Iterator[str]:
        """One receipt an order that was paid and not called off by then; copies only for faults."""
        over = now["over"].values()
        mails = {job["id"]: job for job in over if job["kind"] == "notifications.email"}
        told = Counter(job["subject"] for job in mails.values())
        kinds = {job["id"]: job["kind"] for job in over} | {
            key: job["kind"] for key, job in now["live"].items()
        }
        jobs = [*over, *now["live"].values()]
        called_off = {
            now["payments"][job["subject"]]["order_id"]
            for job in jobs
            if job["kind"] == "payments.refund" and kinds.get(job["parent_id"]) == "payments.charge"
        }
        paid = {
            job["subject"]
            for job in over
            if job["kind"] == "orders.process" and (job["result"] or {}).get("status") == "paid"
        } | {p["order_id"] for p in now["payments"].values() if p["state"] == "succeeded"}
        due = Counter(paid - called_off)
        if told != due:
            yield f"receipts due: {due}; sent: {told}"
        sent = self._shop.mailer.sent
        if sent.keys() != mails.keys():
            yield f"mails: {set(mails)}; at the mail server: {set(sent)}"
        for key, times in sent.items():
            if times > 1 + self._interrupted[key]:
                yield f"mail {key} went out {times} times, interrupted {self._interrupted[key]}"

    def _reports(self, now: Snapshot) -> Iterator[str]:
        """A reconciliation finds both sides the same."""
        for job in now["over"].values():
            if job["kind"] == "payments.reconcile" and not job["result"]["balanced"]:
                yield f"the sides differ: {job['result']}"
