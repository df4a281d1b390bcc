"""No request that can be made up gets an answer that the API's own document doesn't promise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from goodsyard.settings import PREFIX
from tests.conftest import Servers, fresh_database
from tests.harness.cluster import Cluster
from tests.harness.shop import Shop

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_EVERY_RUN = ("--generation-deterministic", "--max-examples", "2")
"""The same requests each time, and few."""

_PATIENT = {
    f"{PREFIX}API_FAILURES_RATE": "100000000/second",
    f"{PREFIX}API_SIGN_IN_RATE": "100000000/second",
}
"""Hundreds of requests show no key or a wrong one, and each must be told so: not 429."""


@pytest.fixture(scope="module")
def cluster(
    servers: Servers, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with (
        fresh_database(servers) as database_url,
        Cluster(tmp_path_factory.mktemp("cluster"), database_url, servers.valkey.url) as running,
    ):
        yield running


@pytest.mark.slow
def test_the_api_keeps_to_its_document_whatever_it_is_asked(
    cluster: Cluster, tmp_path: Path
) -> None:
    api, relay, worker = cluster.api(_PATIENT), cluster.relay(), cluster.worker()
    cluster.until_ready()
    with Shop(cluster.database_url, cluster.sandbox, cluster.folder) as shop:
        key = shop.api_key()
        with httpx.Client(
            base_url=api.url, headers={"Authorization": f"Bearer {key}"}, timeout=40
        ) as http:
            ids = _do_business(http, str(shop.user))
    # What is ordered from now on stays undone: made-up webhooks and mails must go nowhere.
    worker.stop()
    relay.stop()
    for name, values in ids.items():
        (tmp_path / f"{name}.txt").write_text("".join(f'"{value}"\n' for value in values))
    shutil.copy(_CONFIG, tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json", *_effort()],
        cwd=tmp_path,
        env={**os.environ, "FUZZ_API_KEY": key},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(ended.stdout)  # noqa: T201 - shown with a failure, and by -s
    assert ended.returncode == 0, "The output above names each request and what is wrong"
    assert api.status is None, "the API has ended"


def _effort() -> list[str]:
    """Return how many requests to make up: those of every run, or what ``make fuzz-api`` asks."""
    seed = os.environ.get("FUZZ_API_SEED")
    if seed is None:
        return list(_EVERY_RUN)
    seconds = int(float(os.environ["FUZZ_API_MINUTES"]) * 60)
    examples = os.environ["FUZZ_API_EXAMPLES"]
    return ["--seed", seed, "--max-examples", examples, "--max-time", str(seconds)]


def _do_business(http: httpx.Client, user: str) -> dict[str, list[str]]:
    """Leave one of everything behind, and return the ids."""
    order = {
        "user_id": user,
        "currency": "EUR",
        "lines": [{"sku": "CD", "quantity": 2, "unit_amount": 1_250}],
        "payment_method": "pm_card_visa",
    }
    accepted = _post(http, "/v1/orders", order)
    paid, job = accepted["order"]["id"], accepted["job"]["id"]
    read = http.get(f"/v1/orders/{paid}", params={"wait": 30}).json()
    assert read["status"] == "paid", read
    charge = {key: order[key] for key in ("user_id", "currency", "payment_method")}
    payment = _post(http, "/v1/payments", {**charge, "amount": 1_250})["payment"]["id"]
    http.get(f"/v1/payments/{payment}", params={"wait": 30}).raise_for_status()
    accounts = [
        _post(http, "/v1/accounts", {"code": code, "currency": "EUR", "may_overdraw": True})["id"]
        for code in ("till", "safe")
    ]
    hook = {"url": "https://hooks.example.com/goodsyard", "events": ["order.*"]}
    endpoint = _post(http, "/v1/webhook-endpoints", hook)["id"]
    mail = {"to": "ann@example.com", "message_subject": "x", "body": "y"}
    step = {"name": "x", "kind": "notifications.email", "payload": mail}
    workflow = _post(http, "/v1/workflows", {"steps": [step]})["workflow"]["id"]
    return {
        "users": [user],
        "orders": [paid],
        "jobs": [job],
        "workflows": [workflow],
        "payments": [payment],
        "accounts": accounts,
        "endpoints": [endpoint],
    }


def _post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    answer = http.post(path, json=body, headers={"Idempotency-Key": f"{path}:{body}"[:255]})
    assert answer.is_success, answer.text
    return answer.json()
