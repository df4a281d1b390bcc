"""What must hold once the dust has settled, whatever was killed, lost or doubled meanwhile.

Judged from outside: by the gateway's and the mail sink's own logs, and by the rows of one shop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from commerce.payments.rules import charge_key
from tests.harness.shop import Shop


def assert_invariants(shop: Shop) -> None:
    """Check a shop whose jobs should all be over, and list everything that is wrong with it."""
    laws = (_orders(shop), _charges(shop), _stock(shop), _books(shop), _mails(shop))
    wrong = [finding for law in laws for finding in law]
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:20]])


def _orders(shop: Shop) -> Iterator[str]:
    """No order is lost, each ends as it must, and no job is left over or dead."""
    found = shop.statuses()
    for order, end in shop.expected.items():
        if found.get(order) != end:
            yield f"order {order} is {found.get(order, 'lost')}, not {end}"
    for jobs in shop.jobs():
        yield f"jobs left over: {jobs}"


def _charges(shop: Shop) -> Iterator[str]:
    """The gateway captured each payment that succeeded, once, with its amount, and no other."""
    captured = Counter(c["idempotency_key"] for c in shop.charges() if c["status"] == "succeeded")
    amounts = {c["idempotency_key"]: c["amount"] for c in shop.charges()}
    payments = shop.rows(
        "SELECT id, amount, state::text FROM commerce.payment WHERE tenant = %(tenant)s"
    )
    for payment in payments:
        key = charge_key(payment["id"])
        due = int(payment["state"] == "succeeded")
        if captured[key] != due:
            yield f"payment {key} is {payment['state']}, and captured {captured[key]} times"
        if due and amounts.get(key) != payment["amount"]:
            yield f"payment {key} of {payment['amount']} was charged {amounts.get(key)}"
    # Under another key, the same payment could be charged again without being recognised.
    known = {charge_key(row["id"]) for row in shop.rows("SELECT id FROM commerce.payment")}
    for charge in shop.sandbox.charges():
        if charge["idempotency_key"] not in known:
            yield f"a charge of no payment: {charge}"


def _stock(shop: Shop) -> Iterator[str]:
    """What was on hand at first is there, set aside for an order under way, or sold."""
    stock = shop.rows("""
        SELECT sku, on_hand, reserved,
               (SELECT coalesce(sum(l.quantity), 0)
                  FROM commerce.order_line l JOIN commerce.orders o ON o.id = l.order_id
                 WHERE (l.tenant, l.sku) = (s.tenant, s.sku) AND o.status = 'reserved') AS held,
               (SELECT coalesce(sum(l.quantity), 0)
                  FROM commerce.order_line l JOIN commerce.orders o ON o.id = l.order_id
                 WHERE (l.tenant, l.sku) = (s.tenant, s.sku)
                   AND o.status IN ('paid', 'refunded') AND NOT o.cancel_requested) AS sold
          FROM commerce.stock s WHERE tenant = %(tenant)s""")
    for row in stock:
        if not 0 <= row["reserved"] <= row["on_hand"]:
            yield f"stock is oversold: {row}"
        stocked = shop.stocked[row["sku"]]
        if row["reserved"] != row["held"] or row["on_hand"] + row["sold"] != stocked:
            yield f"stock does not add up to the {stocked} there were: {row}"


def _books(shop: Shop) -> Iterator[str]:
    """Every captured payment has one transfer, and the ledger's total is the gateway's."""
    wrong = shop.rows("""
        SELECT p.id, p.state::text, p.amount, array_agg(t.amount) AS booked
          FROM commerce.payment p
          LEFT JOIN commerce.transfer t ON t.payment_id = p.id AND t.code = 'capture'
         WHERE p.tenant = %(tenant)s
         GROUP BY p.id
        HAVING array_remove(array_agg(t.amount), NULL)
               <> CASE WHEN p.state = 'succeeded' THEN ARRAY[p.amount] ELSE '{}' END""")
    for row in wrong:
        yield f"a payment and its transfers don't agree: {row}"
    ledger = shop.value("""
        SELECT coalesce(sum(amount), 0) FROM commerce.transfer
         WHERE tenant = %(tenant)s AND code = 'capture'""")
    gateway = sum(c["amount"] for c in shop.charges() if c["status"] == "succeeded")
    if ledger != gateway:
        yield f"the ledger says {ledger}, the gateway {gateway}"


def _mails(shop: Shop) -> Iterator[str]:
    """Every paid order has one receipt; a mail may go out again only if its sender was lost."""
    mails = Counter(mail["message_id"] for mail in shop.mails())
    ends = Counter(shop.expected.values())
    due, most = ends["paid"], ends["paid"] + ends["refunded"]  # these may have had one before
    if not due <= len(mails) <= most:
        yield f"{len(mails)} different receipts went out, {due} to {most} are due"
    interrupted = shop.value("""
        SELECT coalesce(sum(lost + attempts), 0) FROM goodsyard.job_done
         WHERE tenant = %(tenant)s AND kind = 'notifications.email'""")
    copies = mails.total() - len(mails)
    if copies > interrupted:
        yield f"{copies} extra copies of mails, for {interrupted} interrupted deliveries"
