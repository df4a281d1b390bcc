"""What each call of the Stripe subset does: parameters in, a ``Call`` that says what happened out.

Source: https://docs.stripe.com/api/payment_intents and https://docs.stripe.com/api/refunds. Limits
that depend on a real account (smallest amounts, allowed currencies) are not imitated.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal

from ops.sandbox import form
from ops.sandbox.book import Book
from ops.sandbox.calls import Call
from ops.sandbox.cards import AUTHENTICATION_REQUIRED, DECLINED, GENERIC, is_known
from ops.sandbox.errors import GatewayError, invalid, missing_resource
from ops.sandbox.faults import Faults
from ops.sandbox.objects import CANCELABLE, PaymentIntent, Refund

MAX_AMOUNT = 99_999_999  # "up to eight digits", https://docs.stripe.com/api/payment_intents/create

_CREATE = frozenset(
    {
        "amount",
        "automatic_payment_methods",
        "capture_method",
        "confirm",
        "confirmation_method",
        "currency",
        "customer",
        "description",
        "error_on_requires_action",
        "metadata",
        "off_session",
        "payment_method",
        "payment_method_types",
        "receipt_email",
        "return_url",
        "statement_descriptor",
    }
)
_CANCEL = frozenset({"cancellation_reason"})
_REFUND = frozenset({"amount", "charge", "metadata", "payment_intent", "reason"})


@dataclass(frozen=True, slots=True)
class Request:
    """What a call brings along; ``at`` is when it arrived, in Unix milliseconds."""

    at: int
    key: str | None
    fingerprint: str
    form: form.Form

    def answered(
        self,
        *,
        intent: PaymentIntent,
        refund: Refund | None = None,
        status: HTTPStatus = HTTPStatus.OK,
        charged: bool = False,
    ) -> Call:
        """Return what happened, to be written down."""
        return Call(
            at=self.at,
            key=self.key,
            fingerprint=self.fingerprint,
            status=status,
            intent=intent,
            refund=refund,
            charged=charged,
        )

    def failed(self) -> Call:
        """Return an answer of 500 to a call that did nothing."""
        return Call(
            at=self.at,
            key=self.key,
            fingerprint=self.fingerprint,
            status=HTTPStatus.INTERNAL_SERVER_ERROR,
        )


class Payments:
    """The calls that move money, or call that off."""

    def __init__(self, book: Book, faults: Faults) -> None:
        self._book = book
        self._faults = faults

    def create(self, request: Request) -> Call:
        """``POST /v1/payment_intents``: create an intent and, with ``confirm``, charge it at once.

        Raises:
            GatewayError: a parameter is missing, unknown or wrong (400).
        """
        intent = _new_intent(request)
        if not form.flag(request.form, "confirm"):
            return request.answered(intent=intent)
        if intent.payment_method is None:
            raise invalid(
                "A payment method is needed to confirm a PaymentIntent.",
                code="payment_intent_unexpected_state",
                param="payment_method",
            )
        return self._confirm(request, intent, intent.payment_method)

    def _confirm(self, request: Request, intent: PaymentIntent, payment_method: str) -> Call:
        declined = DECLINED.get(payment_method)
        customer_is_here = not form.flag(request.form, "off_session")
        if self._faults.take("requires_action") is not None or (
            declined == AUTHENTICATION_REQUIRED.decline_code and customer_is_here
        ):
            return request.answered(intent=replace(intent, status="requires_action"))
        if self._faults.take("decline") is not None:
            declined = declined or GENERIC.decline_code
        charged = replace(
            intent,
            charge_id=new_id("ch"),
            decline_code=declined,
            status="requires_payment_method" if declined else "succeeded",
        )
        status = HTTPStatus.PAYMENT_REQUIRED if declined else HTTPStatus.OK
        return request.answered(intent=charged, status=status, charged=True)

    def cancel(self, request: Request, intent_id: str) -> Call:
        """``POST /v1/payment_intents/{id}/cancel``: call an intent off that has not succeeded.

        Raises:
            GatewayError: there is no such intent (404), or it is past cancelling (400).
        """
        form.refuse_unknown(request.form, _CANCEL)
        intent = self.find_intent(intent_id)
        if intent.status not in CANCELABLE:
            raise GatewayError(
                400,
                f"You cannot cancel this PaymentIntent because it has a status of {intent.status}.",
                code="payment_intent_unexpected_state",
            )
        return request.answered(
            intent=replace(
                intent,
                status="canceled",
                canceled_at=request.at // 1000,
                cancellation_reason=form.text(request.form, "cancellation_reason"),
            )
        )

    def refund(self, request: Request) -> Call:
        """``POST /v1/refunds``: give back all or part of what an intent took.

        Raises:
            GatewayError: nothing like it was charged, or less than is asked back is left (400).
        """
        form.refuse_unknown(request.form, _REFUND)
        intent, charge_id = self._charged_intent(request.form)
        left = intent.amount - intent.amount_refunded
        asked = form.text(request.form, "amount")
        if left == 0:
            raise GatewayError(
                400,
                f"Charge {charge_id} has already been refunded.",
                code="charge_already_refunded",
            )
        amount = form.integer(asked, "amount", least=1, most=left) if asked else left
        refund = Refund(
            id=new_id("re"),
            amount=amount,
            currency=intent.currency,
            created=request.at // 1000,
            payment_intent=intent.id,
            charge=charge_id,
            reason=form.text(request.form, "reason"),
            metadata=form.metadata(request.form),
        )
        after = replace(intent, amount_refunded=intent.amount_refunded + amount)
        return request.answered(intent=after, refund=refund)

    def find_intent(self, intent_id: str) -> PaymentIntent:
        """Return the intent as it is now.

        Raises:
            GatewayError: there is none (404).
        """
        intent = self._book.intent(intent_id)
        if intent is None:
            raise missing_resource("payment_intent", intent_id, param="intent")
        return intent

    def _charged_intent(self, fields: form.Form) -> tuple[PaymentIntent, str]:
        name: Literal["payment_intent", "charge"] = (
            "payment_intent" if "payment_intent" in fields else "charge"
        )
        given = form.required(fields, name)
        intent = (
            self._book.intent(given)
            if name == "payment_intent"
            else self._book.intent_of_charge(given)
        )
        if intent is None:
            raise missing_resource(name, given, param=name, status=400)
        if intent.charge_id is None or intent.status != "succeeded":
            raise invalid(
                f"{given} does not have a successful charge to refund.",
                code="payment_intent_unexpected_state",
                param=name,
            )
        return intent, intent.charge_id


def new_id(prefix: str) -> str:
    """Return an identifier that looks like Stripe's and is never given twice."""
    return f"{prefix}_{secrets.token_hex(12)}"


def _new_intent(request: Request) -> PaymentIntent:
    fields = request.form
    form.refuse_unknown(fields, _CREATE)
    amount = form.integer(form.required(fields, "amount"), "amount", least=1, most=MAX_AMOUNT)
    payment_method = form.text(fields, "payment_method")
    if payment_method is not None and not is_known(payment_method):
        raise missing_resource("PaymentMethod", payment_method, param="payment_method", status=400)
    if form.text(fields, "capture_method") == "manual":
        raise invalid(
            "The sandbox captures automatically: leave capture_method out.",
            code="parameter_invalid",
            param="capture_method",
        )
    intent_id = new_id("pi")
    return PaymentIntent(
        id=intent_id,
        amount=amount,
        currency=_currency(form.required(fields, "currency")),
        status="requires_confirmation" if payment_method else "requires_payment_method",
        created=request.at // 1000,
        client_secret=f"{intent_id}_secret_{secrets.token_hex(12)}",
        payment_method=payment_method,
        customer=form.text(fields, "customer"),
        description=form.text(fields, "description"),
        receipt_email=form.text(fields, "receipt_email"),
        statement_descriptor=form.text(fields, "statement_descriptor"),
        metadata=form.metadata(fields),
    )


def _currency(given: str) -> str:
    if len(given) != 3 or not given.isascii() or not given.isalpha():  # noqa: PLR2004 - ISO 4217
        raise invalid(f"Invalid currency: {given}", code="parameter_invalid", param="currency")
    return given.lower()
