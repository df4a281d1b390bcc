"""The sandbox answers Stripe's own client as Stripe does, and its log says what was charged."""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, cast, get_args
from urllib.parse import urlsplit

import httpx
import pytest
import stripe
from stripe.params import PaymentIntentCreateParams

from ops.sandbox.events import API_VERSION
from ops.sandbox.faults import Fault
from tests.processes import wait_until

WEBHOOK_SECRET = "whsec_a_test_of_the_sandbox"  # noqa: S105 - signs events on loopback only
START = """
import sys
from pathlib import Path
from ops.sandbox import EventTarget, main
events = EventTarget(*sys.argv[2:]) if sys.argv[2:] else None
main(0, 0, Path(sys.argv[1]), events=events)
"""
CARD = "pm_card_visa"


class Transport(stripe.HTTPClient):
    """Carries the calls of Stripe's client, so that a lost connection is its connection error."""

    name = "httpx"

    def __init__(self, http: httpx.Client) -> None:
        super().__init__()
        self._http = http

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: object = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        content = str(post_data) if post_data else None
        try:
            answer = self._http.request(method, url, headers=headers, content=content)
        except httpx.TransportError as lost:
            error = stripe.APIConnectionError(str(lost))  # type: ignore[no-untyped-call] # stripe's
            raise error from lost
        return answer.text, answer.status_code, answer.headers


class Sandbox:
    """A sandbox process, and its two faces: Stripe's client and the page of its own."""

    def __init__(self, folder: Path, *events: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(folder), *events], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        addresses = json.loads(self.process.stdout.readline())
        self.url: str = addresses["gateway"]
        self.smtp_port = urlsplit(addresses["smtp"]).port or 0
        self.http = httpx.Client(base_url=self.url, timeout=10)
        self._seen = {"charges": 0, "mails": 0}
        self.stripe = stripe.StripeClient(
            "sk_test_sandbox",
            base_addresses={"api": self.url},
            max_network_retries=0,
            http_client=Transport(self.http),
        )

    def pay(
        self, amount: int = 1499, key: str = "payment:charge", **more: object
    ) -> stripe.PaymentIntent:
        """Charge a card the way Goodsyard does."""
        params: dict[str, object] = {
            "amount": amount,
            "currency": "usd",
            "confirm": True,
            "off_session": True,
            "payment_method": CARD,
            **more,
        }
        return self.stripe.v1.payment_intents.create(
            cast("PaymentIntentCreateParams", params), {"idempotency_key": key}
        )

    def charges(self) -> list[dict[str, Any]]:
        return self._log("charges")

    def mails(self) -> list[dict[str, Any]]:
        return self._log("mails")

    def turn_the_page(self) -> None:
        """Behave, and leave what was logged so far out of ``charges`` and ``mails``."""
        self.http.delete("/sandbox/faults")
        self.misbehave("forget_keys")
        for name in self._seen:
            self._seen[name] += len(self._log(name))

    def _log(self, name: str) -> list[dict[str, Any]]:
        page = self.http.get(f"/sandbox/{name}", params={"after": self._seen[name]})
        return list(page.json()["data"])

    def misbehave(self, fault: str, **more: float) -> None:
        assert self.http.post("/sandbox/faults", json={"fault": fault, **more}).is_success

    def mailer(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=10)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process and return its exit status."""
        self.http.close()
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Starts sandboxes on this test's folder, and ends those the test left."""
    started: list[Sandbox] = []

    def begin(*events: str) -> Sandbox:
        started.append(Sandbox(tmp_path / "sandbox", *events))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One process for the tests that need none of their own."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.end()


@pytest.fixture
def sandbox(shared: Sandbox) -> Sandbox:
    """A sandbox that behaves and whose log looks empty."""
    shared.turn_the_page()
    return shared


def response(intent: stripe.PaymentIntent) -> stripe.StripeResponse:
    assert isinstance(intent.last_response, stripe.StripeResponse)
    return intent.last_response


# What a charge does


def test_a_confirmed_intent_is_one_line_of_the_charge_log(sandbox: Sandbox) -> None:
    intent = sandbox.pay(2050, "p1:charge", metadata={"payment": "p1"}, description="Order 7")
    assert (intent.status, intent.amount_received, intent.currency) == ("succeeded", 2050, "usd")
    assert intent.metadata["payment"] == "p1"
    (charge,) = sandbox.charges()
    at = charge.pop("at")
    assert charge == {
        "id": intent.latest_charge,
        "amount": 2050,
        "currency": "usd",
        "status": "succeeded",
        "idempotency_key": "p1:charge",
    }
    assert len(at) == len("2026-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("payment_method", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_authenticationRequired", "authentication_required", "authentication_required"),
    ],
)
def test_a_declined_card_is_a_card_error_with_its_intent_and_a_failed_charge(
    sandbox: Sandbox, payment_method: str, code: str, decline_code: str
) -> None:
    with pytest.raises(stripe.CardError) as caught:
        sandbox.pay(payment_method=payment_method)
    error = caught.value
    assert (error.http_status, error.code) == (402, code)
    assert error.error is not None
    assert error.error.decline_code == decline_code
    intent = error.error.payment_intent
    assert intent is not None
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.decline_code == decline_code
    (charge,) = sandbox.charges()
    assert (charge["id"], charge["status"]) == (error.error.charge, "failed")


def test_a_customer_who_is_there_is_asked_to_authenticate_and_not_charged(sandbox: Sandbox) -> None:
    intent = sandbox.pay(payment_method="pm_card_authenticationRequired", off_session=False)
    assert intent.status == "requires_action"
    assert sandbox.charges() == []


def test_a_declined_intent_can_be_cancelled_and_a_paid_one_not(sandbox: Sandbox) -> None:
    with pytest.raises(stripe.CardError) as caught:
        sandbox.pay(key="declined", payment_method="pm_card_chargeDeclined")
    assert caught.value.error is not None
    assert caught.value.error.payment_intent is not None
    declined = caught.value.error.payment_intent.id
    intents = sandbox.stripe.v1.payment_intents
    assert intents.cancel(declined).status == "canceled"
    assert intents.retrieve(declined).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        intents.cancel(sandbox.pay(key="paid").id)
    assert refused.value.code == "payment_intent_unexpected_state"


def test_a_refund_gives_back_at_most_what_was_charged(sandbox: Sandbox) -> None:
    intent = sandbox.pay(1000)
    refunds = sandbox.stripe.v1.refunds
    part = refunds.create({"payment_intent": intent.id, "amount": 300})
    assert refunds.retrieve(part.id).amount == 300
    with pytest.raises(stripe.InvalidRequestError) as too_much:
        refunds.create({"payment_intent": intent.id, "amount": 701})
    assert too_much.value.param == "amount"
    assert refunds.create({"charge": str(intent.latest_charge)}).amount == 700
    with pytest.raises(stripe.InvalidRequestError) as again:
        refunds.create({"payment_intent": intent.id})
    assert again.value.code == "charge_already_refunded"


def test_the_list_of_intents_is_whole_and_newest_first_whatever_the_page(sandbox: Sandbox) -> None:
    made = [sandbox.pay(key=f"key-{number}").id for number in range(7)]
    listed = sandbox.stripe.v1.payment_intents.list({"limit": 3})
    newest = islice(listed.auto_paging_iter(), len(made))
    assert [intent.id for intent in newest] == made[::-1]


def test_a_call_that_stripe_would_refuse_is_refused_the_same_way(sandbox: Sandbox) -> None:
    for wrong, code, param in (
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"amount": 0}, "parameter_invalid_integer", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"currency": "dollars"}, "parameter_invalid", "currency"),
        ({"payment_method": "pm_card_unheard_of"}, "resource_missing", "payment_method"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            sandbox.pay(**wrong)
        assert (refused.value.code, refused.value.param) == (code, param)
    with pytest.raises(stripe.InvalidRequestError) as missing:
        sandbox.stripe.v1.payment_intents.retrieve("pi_unheard_of")
    assert missing.value.http_status == 404
    assert sandbox.charges() == []


def test_nobody_charges_without_an_api_key(sandbox: Sandbox) -> None:
    answer = sandbox.http.post("/v1/payment_intents", data={"amount": "100", "currency": "usd"})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    basic = sandbox.http.get("/v1/payment_intents", auth=("sk_test_basic", ""))
    assert basic.status_code == 200


# What a key does


def test_a_key_charges_once_and_replays_the_same_answer_byte_for_byte(sandbox: Sandbox) -> None:
    first = sandbox.pay()
    again = sandbox.pay()
    assert again.id == first.id
    assert response(again).body == response(first).body
    assert "idempotent-replayed" not in response(first).headers
    assert response(again).headers["idempotent-replayed"] == "true"
    assert len(sandbox.charges()) == 1


def test_a_decline_is_replayed_without_another_attempt(sandbox: Sandbox) -> None:
    charges = set()
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            sandbox.pay(payment_method="pm_card_chargeDeclined")
        assert caught.value.error is not None
        charges.add(caught.value.error.charge)
    assert charges == {charge["id"] for charge in sandbox.charges()}


def test_the_order_of_parameters_does_not_make_another_call(sandbox: Sandbox) -> None:
    answers = [
        sandbox.http.post(
            "/v1/payment_intents",
            content=form,
            headers={"Authorization": "Bearer sk_test", "Idempotency-Key": "one"},
        )
        for form in ("amount=5&currency=usd", "currency=usd&amount=5")
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_a_key_with_other_parameters_is_an_idempotency_error(sandbox: Sandbox) -> None:
    intent = sandbox.pay(100, "mine")
    with pytest.raises(stripe.IdempotencyError) as refused:
        sandbox.pay(101, "mine")
    assert refused.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError):
        sandbox.stripe.v1.payment_intents.cancel(intent.id, {}, {"idempotency_key": "mine"})
    assert [charge["amount"] for charge in sandbox.charges()] == [100]


def test_a_key_in_flight_is_a_conflict(sandbox: Sandbox) -> None:
    sandbox.misbehave("hang", seconds=1.0)
    with ThreadPoolExecutor() as threads:
        hanging = threads.submit(sandbox.pay)
        wait_until(
            lambda: sandbox.http.get("/sandbox/faults").json()["data"] == [], "the call to hang"
        )
        with pytest.raises(stripe.APIError) as conflict:
            sandbox.pay()
        assert conflict.value.http_status == 409
        assert conflict.value.error is not None
        assert conflict.value.error.code == "idempotency_key_in_use"
        assert isinstance(hanging.exception(), stripe.APIConnectionError)
    assert sandbox.charges() == []
    assert sandbox.pay().status == "succeeded"


def test_a_refused_call_leaves_its_key_unused(sandbox: Sandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        sandbox.pay(0)
    assert sandbox.pay(100).status == "succeeded"


# Misbehaving on demand


def test_429_says_when_to_come_back(sandbox: Sandbox) -> None:
    sandbox.misbehave("429", seconds=7)
    with pytest.raises(stripe.RateLimitError) as limited:
        sandbox.pay()
    assert limited.value.headers is not None
    assert limited.value.headers["retry-after"] == "7"
    assert sandbox.pay().status == "succeeded"


def test_a_500_before_the_call_began_is_forgotten(sandbox: Sandbox) -> None:
    sandbox.misbehave("500", count=2)
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            sandbox.pay()
    assert sandbox.pay().status == "succeeded"
    assert len(sandbox.charges()) == 1


def test_a_stored_500_is_replayed_for_ever(sandbox: Sandbox) -> None:
    sandbox.misbehave("stored_500")
    replayed = []
    for _ in range(3):
        with pytest.raises(stripe.APIError) as broken:
            sandbox.pay()
        assert broken.value.http_status == 500
        replayed.append((broken.value.headers or {}).get("idempotent-replayed"))
    assert replayed == [None, "true", "true"]
    assert sandbox.charges() == []


def test_a_charge_behind_a_500_is_found_by_looking_it_up(sandbox: Sandbox) -> None:
    sandbox.misbehave("charge_then_500")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            sandbox.pay(metadata={"payment": "p1"})
    (intent,) = sandbox.stripe.v1.payment_intents.list({"limit": 1}).data
    assert (intent.status, intent.metadata["payment"]) == ("succeeded", "p1")
    assert len(sandbox.charges()) == 1


def test_a_charge_whose_answer_was_lost_is_told_to_the_next_call_with_its_key(
    sandbox: Sandbox,
) -> None:
    sandbox.misbehave("charge_then_drop")
    with pytest.raises(stripe.APIConnectionError):
        sandbox.pay()
    (charge,) = sandbox.charges()
    assert sandbox.pay().latest_charge == charge["id"]
    assert len(sandbox.charges()) == 1


def test_a_decline_can_be_ordered_for_any_card(sandbox: Sandbox) -> None:
    sandbox.misbehave("decline")
    with pytest.raises(stripe.CardError):
        sandbox.pay(key="first")
    assert sandbox.pay(key="second").status == "succeeded"


def test_latency_delays_the_effect_and_not_the_time_of_arrival(sandbox: Sandbox) -> None:
    sandbox.misbehave("latency", seconds=0.3)
    slow = sandbox.http.post(
        "/v1/payment_intents",
        data={"amount": "100", "currency": "usd"},
        headers={"Authorization": "Bearer sk_test"},
    )
    assert slow.elapsed.total_seconds() >= 0.3


def test_a_forgotten_key_charges_again(sandbox: Sandbox) -> None:
    sandbox.pay()
    sandbox.misbehave("forget_keys")
    sandbox.pay()
    assert [charge["idempotency_key"] for charge in sandbox.charges()] == ["payment:charge"] * 2


def test_faults_can_be_called_off(sandbox: Sandbox) -> None:
    sandbox.misbehave("decline", count=9)
    assert sandbox.http.delete("/sandbox/faults").status_code == 204
    assert sandbox.pay().status == "succeeded"


@pytest.mark.parametrize(
    ("order", "pointer"),
    [
        ({"fault": "explode"}, "#/fault"),
        ({"fault": "decline", "count": 0}, "#/count"),
        ({"fault": "hang", "seconds": "long"}, "#/seconds"),
        ({"fault": "decline", "times": 3}, "#/times"),
    ],
)
def test_an_order_to_misbehave_that_makes_no_sense_is_refused_by_name(
    sandbox: Sandbox, order: dict[str, object], pointer: str
) -> None:
    answer = sandbox.http.post("/sandbox/faults", json=order)
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["pointer"] == pointer
    if pointer == "#/fault":
        assert all(fault in problem["detail"] for fault in get_args(Fault))


# The log outlives the process


def test_a_killed_sandbox_remembers_every_charge_and_key(start: Callable[..., Sandbox]) -> None:
    first = start()
    intent = first.pay(key="kept")
    with pytest.raises(stripe.CardError):
        first.pay(key="declined", payment_method="pm_card_chargeDeclined")
    first.stripe.v1.refunds.create({"payment_intent": intent.id, "amount": 499})
    charges = first.charges()
    first.end(signal.SIGKILL)

    second = start()
    assert second.charges() == charges
    assert response(second.pay(key="kept")).body == response(intent).body
    with pytest.raises(stripe.IdempotencyError):
        second.pay(1, key="kept")
    with pytest.raises(stripe.InvalidRequestError):
        second.stripe.v1.refunds.create({"payment_intent": intent.id, "amount": 1001})
    assert second.charges() == charges


def test_a_line_torn_by_a_crash_is_cut_off_and_the_rest_kept(
    start: Callable[..., Sandbox], tmp_path: Path
) -> None:
    first = start()
    first.pay(key="whole")
    charges = first.charges()
    assert first.end() == 0
    log = tmp_path / "sandbox" / "charges.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"at":17')

    second = start()
    assert second.charges() == charges
    assert log.read_bytes() == whole


def test_two_sandboxes_never_share_a_log(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    start()
    second = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path / "sandbox")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert "is held by another sandbox" in second.stderr


# Events


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


# Mail


def receipt(message_id: str = "<receipt-1@goodsyard.example>") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "shop@goodsyard.example"
    message["To"] = "customer-00004@cdnow.example"
    message["Subject"] = "Ihre Quittung über 14,99 €"
    message["Message-ID"] = message_id
    message.set_content("Vielen Dank!\n.\n..two dots\n")
    return message


def test_every_delivery_is_logged_and_none_deduplicated(sandbox: Sandbox) -> None:
    with sandbox.mailer() as mailer:
        for _ in range(2):
            mailer.send_message(receipt())
    mails = [
        {name: mail[name] for name in ("message_id", "to", "subject")} for mail in sandbox.mails()
    ]
    assert (
        mails
        == [
            {
                "message_id": "<receipt-1@goodsyard.example>",
                "to": "customer-00004@cdnow.example",
                "subject": "Ihre Quittung über 14,99 €",
            }
        ]
        * 2
    )


def test_a_mail_can_be_read_as_it_came(start: Callable[..., Sandbox]) -> None:
    first = start()
    with first.mailer() as mailer:
        mailer.send_message(receipt())
        raw = b"Subject: no UTF-8\r\n\r\n\xa4\xff\r\n"
        mailer.sendmail("shop@goodsyard.example", ["a@cdnow.example", "b@cdnow.example"], raw)
    first.end(signal.SIGKILL)

    second = start()
    assert "Vielen Dank!" in second.http.get("/sandbox/mails/0").text
    assert [mail["to"] for mail in second.mails()[1:]] == ["a@cdnow.example", "b@cdnow.example"]
    assert second.http.get("/sandbox/mails/2").content == raw
    assert second.http.get("/sandbox/mails/3").status_code == 404


@pytest.mark.parametrize("status", [450, 550])
def test_a_mail_that_is_refused_is_not_logged(sandbox: Sandbox, status: int) -> None:
    sandbox.misbehave(f"mail_{status}")
    with sandbox.mailer() as mailer:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            mailer.send_message(receipt())
        assert refused.value.smtp_code == status
        assert sandbox.mails() == []
        mailer.send_message(receipt())
    assert len(sandbox.mails()) == 1


def test_a_mail_whose_answer_was_lost_is_in_the_log(sandbox: Sandbox) -> None:
    sandbox.misbehave("mail_drop_after_data")
    mailer = sandbox.mailer()
    with pytest.raises(smtplib.SMTPServerDisconnected, match=r"closed$"):
        mailer.send_message(receipt())
    mailer.close()
    assert len(sandbox.mails()) == 1


def test_a_mail_past_the_size_limit_is_refused(sandbox: Sandbox) -> None:
    with sandbox.mailer() as mailer:
        mailer.ehlo()
        limit = int(mailer.esmtp_features["size"])
        with pytest.raises(smtplib.SMTPSenderRefused):
            mailer.sendmail("shop@goodsyard.example", ["a@cdnow.example"], b"x" * (limit + 1))
    assert sandbox.mails() == []


def test_a_reader_of_the_log_can_go_on_where_it_was(sandbox: Sandbox) -> None:
    for number in range(3):
        sandbox.pay(key=f"key-{number}")
    every = sandbox.http.get("/sandbox/charges").json()["data"]
    rest = sandbox.http.get("/sandbox/charges", params={"after": len(every) - 2}).json()["data"]
    assert rest == every[-2:]
