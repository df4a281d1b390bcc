"""What the gateway has done, as a fold over its journal: a restarted gateway knows what it knew.

A caller gets an answer only after the journal has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from http import HTTPStatus
from itertools import dropwhile, islice
from typing import Any

from ops.sandbox.calls import Call
from ops.sandbox.clock import iso
from ops.sandbox.journal import Journal
from ops.sandbox.keys import IdempotencyKeys
from ops.sandbox.objects import PaymentIntent, Refund

KEYS_FORGOTTEN = "keys_forgotten_at"


class Book:
    """All intents, refunds, charge attempts and remembered keys."""

    def __init__(self, journal: Journal) -> None:
        """Read the journal from the beginning.

        Raises:
            JournalError: it holds a line that is no record of ours.
        """
        self._journal = journal
        self._intents: list[PaymentIntent] = []  # oldest first, each as it is now
        self._position: dict[str, int] = {}
        self._intent_of_charge: dict[str, str] = {}
        self._refunds: dict[str, Refund] = {}  # oldest first, none ever changes
        self._charges: list[Call] = []
        self._given_back: list[Call] = []
        self.keys = IdempotencyKeys()
        for _, record in journal.records():
            if KEYS_FORGOTTEN in record:
                self.keys.forget()
            else:
                self._apply(_call(record))

    def record(self, call: Call) -> None:
        """Write the call down and let it count from now on."""
        self._journal.append(call)
        self._apply(call)

    def forget_keys(self, now: int) -> None:
        """Forget all idempotency keys, for good; ``now`` in Unix milliseconds."""
        self._journal.append({KEYS_FORGOTTEN: now})
        self.keys.forget()

    def intent(self, intent_id: str) -> PaymentIntent | None:
        """Return the intent as it is now."""
        position = self._position.get(intent_id)
        return None if position is None else self._intents[position]

    def intent_of_charge(self, charge_id: str) -> PaymentIntent | None:
        """Return the intent whose latest charge this is."""
        return self.intent(self._intent_of_charge.get(charge_id, ""))

    def refund(self, refund_id: str) -> Refund | None:
        """Return a refund."""
        return self._refunds.get(refund_id)

    def newest_refunds(
        self, *, of_intent: str | None, after: Refund | None, limit: int
    ) -> list[Refund]:
        """Return up to ``limit`` refunds, of one intent or all, newest first, behind ``after``."""
        newest: Iterator[Refund] = reversed(self._refunds.values())
        if after is not None:
            newest = dropwhile(lambda refund: refund.id != after.id, newest)
            next(newest)
        wanted = (r for r in newest if of_intent is None or r.payment_intent == of_intent)
        return list(islice(wanted, limit))

    def newest_intents(self, *, after: PaymentIntent | None, limit: int) -> list[PaymentIntent]:
        """Return up to ``limit`` intents, newest first, beginning behind ``after``."""
        end = len(self._intents) if after is None else self._position[after.id]
        return self._intents[max(0, end - limit) : end][::-1]

    def intents_with(self, key: str, value: str) -> list[PaymentIntent]:
        """Return the intents whose metadata says so, newest first."""
        return [i for i in reversed(self._intents) if i.metadata.get(key) == value]

    def charges(self, first: int) -> list[dict[str, object]]:
        """Return the attempts to charge from the ``first``-th on, in the order they happened."""
        return [_charge_entry(call) for call in self._charges[first:]]

    def refunds(self, first: int) -> list[dict[str, object]]:
        """Return the refunds from the ``first``-th on, in the order they happened."""
        return [_refund_entry(call) for call in self._given_back[first:]]

    def _apply(self, call: Call) -> None:
        if call.intent is not None:
            self._place(call.intent)
            if call.intent.charge_id is not None:
                self._intent_of_charge[call.intent.charge_id] = call.intent.id
        if call.refund is not None:
            self._refunds[call.refund.id] = call.refund
            self._given_back.append(call)
        if call.charged:
            self._charges.append(call)
        self.keys.remember(call)

    def _place(self, intent: PaymentIntent) -> None:
        position = self._position.setdefault(intent.id, len(self._intents))
        if position == len(self._intents):
            self._intents.append(intent)
        else:
            self._intents[position] = intent


def _charge_entry(call: Call) -> dict[str, object]:
    intent = call.intent
    if intent is None:
        raise ValueError(f"the charge of {iso(call.at)} has no intent")
    return {
        "id": intent.charge_id,
        "amount": intent.amount,
        "currency": intent.currency,
        "status": intent.charge_status,
        "idempotency_key": call.key,
        "at": iso(call.at),
    }


def _refund_entry(call: Call) -> dict[str, object]:
    refund = call.refund
    if refund is None:
        raise ValueError(f"the call of {iso(call.at)} gave nothing back")
    return {
        "id": refund.id,
        "amount": refund.amount,
        "currency": refund.currency,
        "payment_intent": refund.payment_intent,
        "idempotency_key": call.key,
        "at": iso(call.at),
    }


def _call(record: dict[str, Any]) -> Call:  # Any: a record is as old as the sandbox that wrote it
    intent, refund = record["intent"], record["refund"]
    return Call(
        **{
            **{name.name: record[name.name] for name in fields(Call)},
            "status": HTTPStatus(record["status"]),
            "intent": PaymentIntent(**intent) if intent else None,
            "refund": Refund(**refund) if refund else None,
        }
    )
