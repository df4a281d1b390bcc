"""A key charges once, over crashes and restarts too; any other use of it is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import stripe

from tests.integration.sandbox.process import START, Sandbox, response
from tests.processes import wait_until


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
