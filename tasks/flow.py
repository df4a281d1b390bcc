"""Every contract with its handler: the one place where a new kind of job is wired in."""

from __future__ import annotations

from commerce.notifications.channels import Channels
from commerce.notifications.mailer import Mailer
from commerce.payments.gateway import Gateway
from goodsyard.flow import DatabaseHandler, Flow, Handler
from tasks import contracts, expiry, orders
from tasks.events import tell_of_deaths
from tasks.notifications import Chat, Email
from tasks.payments import Charge
from tasks.reconciliation import Reconcile
from tasks.refresh import Refresh
from tasks.refunds import Refund
from tasks.webhooks import Webhook


def handlers(
    gateway: Gateway, mailer: Mailer, webhook: Webhook, channels: Channels | None = None
) -> list[Handler]:
    """Return the handlers, over those they call: further channels only if there are any."""
    return [
        DatabaseHandler(contracts.ProcessOrder, orders.process),
        DatabaseHandler(contracts.ExpireReservation, expiry.expire),
        Charge(gateway),
        Refund(gateway),
        Refresh(gateway),
        Reconcile(gateway),
        Email(mailer),
        webhook,
        Chat(channels or Channels()),
    ]


def build_flow(
    gateway: Gateway, mailer: Mailer, webhook: Webhook, channels: Channels | None = None
) -> Flow:
    """Return the flow: every contract and the handler that runs it.

    Raises:
        goodsyard.flow.FlowError: a contract has no handler.
    """
    return Flow(contracts.ALL, handlers(gateway, mailer, webhook, channels), tell_of_deaths)
