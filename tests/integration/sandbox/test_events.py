"""Events are signed as Stripe signs them, and delivered until they are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from threading import Thread

import pytest
import stripe

from ops.sandbox.events import API_VERSION
from tests.integration.sandbox.process import Sandbox

WEBHOOK_SECRET = "whsec_a_test_of_the_sandbox"  # noqa: S105 - signs events on loopback only


class Receiver(HTTPServer):
    """Where a shop would take events in; answers each with the next of ``statuses``, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.taken: Queue[tuple[bytes, str]] = Queue()
        self.statuses: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/gateway/events"


class _Take(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.put((body, self.headers["Stripe-Signature"]))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Keep the test's output to the test."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as listening:
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def test_events_are_signed_so_that_stripe_believes_them(
    start: Callable[..., Sandbox], receiver: Receiver
) -> None:
    sandbox = start(receiver.url, WEBHOOK_SECRET)
    intent = sandbox.pay()
    body, signature = receiver.taken.get(timeout=10)
    event = stripe.Webhook.construct_event(body, signature, WEBHOOK_SECRET)
    assert event.type == "payment_intent.succeeded"
    assert event.data.object["id"] == intent.id
    assert sandbox.stripe.v1.events.retrieve(event.id).type == event.type
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body + b" ", signature, WEBHOOK_SECRET)


def test_an_event_is_delivered_again_until_it_is_taken(
    start: Callable[..., Sandbox], receiver: Receiver
) -> None:
    receiver.statuses = [503]
    sandbox = start(receiver.url, WEBHOOK_SECRET)
    sandbox.pay()
    assert receiver.taken.get(timeout=10)[0] == receiver.taken.get(timeout=10)[0]


def test_the_api_version_is_that_of_the_stripe_package() -> None:
    assert stripe.api_version == API_VERSION
