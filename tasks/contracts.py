"""Every job's contract on one page, no behaviour: handlers stage each other's jobs from here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints

from commerce.money import Amount, Currency
from goodsyard.contracts import Backoff, Cache, Contract, Effect, Policy

Mailbox = Annotated[
    str,
    StringConstraints(max_length=320, pattern=r'^[^\s\x00-\x1f\x7f@<>()\[\]\\,;:"]+@[^\s@,<>]+$'),
]
"""One address, bare. Whether there is such a mailbox, the mail server knows."""

Template = Literal["receipt", "refund", "cancellation", "payment_failed"]
"""What there is a mail template of."""


class ProcessOrder(Contract):
    """Reserve what the order needs, or reject it; then have it charged, or done if it is free."""

    kind: ClassVar[str] = "orders.process"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders")

    order_id: UUID

    @property
    def subject(self) -> UUID:
        """The order."""
        return self.order_id


class ExpireReservation(Contract):
    """Call an order off whose charge should have begun long ago and never did."""

    kind: ClassVar[str] = "orders.expire"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders")

    order_id: UUID

    @property
    def subject(self) -> UUID:
        """The order."""
        return self.order_id


class ChargePayment(Contract):
    """Charge a payment at the gateway, book it and tell the customer.

    The request's parameters are frozen here: the gateway refuses others under the same key.
    """

    kind: ClassVar[str] = "payments.charge"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    # A minute-long provider outage costs a handful of attempts; an hour's is outlived.
    policy: ClassVar[Policy] = Policy(queue="payments", max_attempts=25, backoff=Backoff(1, 300))

    payment_id: UUID
    order_id: UUID | None
    amount: Annotated[Amount, Field(gt=0)]
    currency: Currency
    payment_method: str

    @property
    def subject(self) -> UUID:
        """The payment."""
        return self.payment_id


class RefundPayment(Contract):
    """Give all or a part of a captured payment back, and book it."""

    kind: ClassVar[str] = "payments.refund"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    policy: ClassVar[Policy] = Policy(queue="payments", max_attempts=25, backoff=Backoff(1, 300))

    refund_id: UUID
    payment_id: UUID
    gateway_id: str
    amount: Annotated[Amount, Field(gt=0)]

    @property
    def subject(self) -> UUID:
        """The payment."""
        return self.payment_id


class RefreshPayment(Contract):
    """Ask the gateway how a payment stands there, and bring our books up to it.

    Nothing of what the event said that led to it is in here: only which charge it was about.
    """

    kind: ClassVar[str] = "payments.refresh"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    policy: ClassVar[Policy] = Policy(
        queue="payments", chunk=20, max_attempts=25, backoff=Backoff(1, 300)
    )

    payment_id: UUID
    gateway_id: str

    @property
    def subject(self) -> UUID:
        """The payment."""
        return self.payment_id


Moment = Annotated[
    AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), le=datetime(9999, 1, 1, tzinfo=UTC))
]
"""A time that the gateway, Postgres and Python can all count from, with a day to spare."""


class ReconcilePayments(Contract):
    """Compare the gateway's charges and refunds of a period with the ledger: a report."""

    kind: ClassVar[str] = "payments.reconcile"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    public: ClassVar[bool] = True
    # It reads all that the gateway has of the period: who asks twice at a time gets one report.
    policy: ClassVar[Policy] = Policy(queue="payments", chunk=1, cache=Cache(ttl=10))

    since: Moment
    until: Moment


class SendEmail(Contract):
    """Send one mail, at least once, always under the same Message-ID."""

    kind: ClassVar[str] = "notifications.email"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    public: ClassVar[bool] = True
    # Few at a time: a mail server sees this many connections of each process. A server that is away
    # for a day costs no mail.
    policy: ClassVar[Policy] = Policy(
        queue="notifications", chunk=100, abreast=4, max_attempts=60, backoff=Backoff(1, 3_600)
    )

    to: Mailbox
    template: Template | None = None
    message_subject: str | None = None
    body: str | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)
    about: UUID | None = None

    @property
    def subject(self) -> UUID | None:
        """The order it tells about."""
        return self.about


class SendWebhook(Contract):
    """Tell one endpoint of one event, at least once, always under the same ``webhook-id``."""

    kind: ClassVar[str] = "notifications.webhook"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    # With full jitter half of the longest wait on average: about three days, six at the most.
    policy: ClassVar[Policy] = Policy(
        queue="notifications", chunk=100, max_attempts=30, backoff=Backoff(5, 28_800)
    )

    endpoint_id: UUID
    event: Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$", max_length=100)]
    occurred_at: AwareDatetime
    data: dict[str, JsonValue]
    message_id: UUID | None = None
    """The ``webhook-id``, where it was sent before under another job's; else it is the job's."""

    @property
    def subject(self) -> UUID:
        """The endpoint: all that is on its way there is found by it."""
        return self.endpoint_id


class SendChat(Contract):
    """Send a text to a channel that an operator named, at most once: it knows no id of ours."""

    kind: ClassVar[str] = "notifications.chat"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    policy: ClassVar[Policy] = Policy(queue="notifications", chunk=20, abreast=4, repeatable=False)

    channel: str
    """As the settings call it: ``TENANT/NAME``."""
    to: str | None
    message_subject: str
    body: str


ALL: tuple[type[Contract], ...] = (
    ProcessOrder,
    ExpireReservation,
    ChargePayment,
    RefundPayment,
    RefreshPayment,
    ReconcilePayments,
    SendEmail,
    SendWebhook,
    SendChat,
)
"""Every kind there is. A handler for each is required when a worker starts."""

QUEUES = ("orders", "payments", "notifications", "submit", "quarantine")
"""Every Celery queue; ``quarantine`` is where jobs that keep losing their workers are tried."""
