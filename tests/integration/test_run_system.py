"""Over real processes: a running job is seen to get on, is called off, and ends in seconds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from commerce.payments.gateway import CALL_SECONDS
from goodsyard.settings import PREFIX
from tests.conftest import Servers
from tests.harness.clients import caller
from tests.harness.cluster import Cluster
from tests.harness.shop import Shop


class _Endless(BaseHTTPRequestHandler):
    """A gateway whose list of payments has no end, a week a page, a tenth of a second each."""

    pages = 0

    def do_GET(self) -> None:
        """Answer with the next week."""
        time.sleep(0.1)
        type(self).pages += 1
        created = int(time.time()) - self.pages * 7 * 86_400
        payment = {
            "id": f"pi_{self.pages}",
            "status": "canceled",
            "amount": 1,
            "currency": "eur",
            "created": created,
        }
        page = json.dumps({"data": [payment], "has_more": True}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def endless_gateway() -> Iterator[str]:
    """Have such a gateway for a while, and its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_job_of_a_worker_is_seen_to_get_on_and_is_called_off(
    servers: Servers, own_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        endless_gateway() as gateway,
        Cluster(tmp_path, own_database_url, redis_url) as cluster,
        Shop(own_database_url, cluster.sandbox, tmp_path) as shop,
    ):
        api = cluster.api()
        cluster.relay()
        cluster.worker(settings={f"{PREFIX}GATEWAY_URL": gateway})
        cluster.until_ready()
        now = datetime.now(UTC)
        period = {"since": (now - timedelta(days=20 * 365)).isoformat(), "until": now.isoformat()}
        body = {"kind": "payments.reconcile", "payload": period}
        with caller(shop, api.url) as http:
            sent = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "1"})
            href = sent.headers["Location"]
            events = http.stream("GET", f"{href}/events", timeout=CALL_SECONDS)
            with events as stream:
                lines = stream.iter_lines()
                first, later = [_fraction(_first(lines, "event: progress")) for _ in range(2)]
                assert 0 <= first < later < 1
                shown = http.get(href).json()
                assert shown["state"] == "running"
                assert shown["progress"]["text"]
                asked = http.post(f"{href}/cancel").json()
                assert (asked["state"], asked["cancel_requested"]) == ("running", True)
                ended = http.get(href, params={"wait": 15}).json()
                assert (ended["state"], ended["error"]) == ("cancelled", "called off while it ran")
                assert _first(lines, "id: cancelled") == "event: state"


def _first(lines: Iterator[str], event: str) -> str:
    """Return what follows a line of a stream."""
    for line in lines:
        if line == event:
            break
    return next(lines)


def _fraction(line: str) -> float:
    return float(json.loads(line.removeprefix("data: "))["fraction"])
