"""Every contract with its handler: the one place where a new kind of job is wired in."""

from __future__ import annotations

from commerce.notifications.channels import Channels
from commerce.notifications.mailer import Mailer
from commerce.payments.gateway import Gateway
from goodsyard.flow import DatabaseHandler, Flow, Handler
from tasks import contracts, expiry, orders
from tasks.notifications import Chat, Email
from tasks.payments import Charge
from tasks.reconciliation import Reconcile
from tasks.refunds import Refund


def handlers(gateway: Gateway, mailer: Mailer, channels: Channels | None = None) -> list[Handler]:
    """Return the handlers, over a gateway, a mail server and further channels, if there are any."""
    return [
        DatabaseHandler(contracts.ProcessOrder, orders.process),
        DatabaseHandler(contracts.ExpireReservation, expiry.expire),
        Charge(gateway),
        Refund(gateway),
        Reconcile(gateway),
        Email(mailer),
        Chat(channels or Channels()),
    ]


def build_flow(gateway: Gateway, mailer: Mailer, channels: Channels | None = None) -> Flow:
    """Return the flow: every contract and the handler that runs it.

    Raises:
        goodsyard.flow.FlowError: a contract has no handler.
    """
    return Flow(contracts.ALL, handlers(gateway, mailer, channels))
