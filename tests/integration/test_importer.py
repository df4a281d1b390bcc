"""An import hands each order in once, whatever dies, refuses or runs twice on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.engine import make_url

from commerce.accounts.keys import create_api_key
from goodsyard.database import open_engine, session_factory
from goodsyard.settings import PREFIX
from ops.children import Program
from ops.embedded.ports import LOOPBACK, free_port
from tests.conftest import Servers, fresh_database
from tests.harness.programs import Running
from tests.processes import wait_until

HEADER = "order_key,email,currency,sku,quantity,unit_amount,payment_method"
MANY = 10_000  # twenty requests, which take seconds with a key that is limited to five a second


@dataclass
class Server:
    """The API as a process on a database of its own, for all tests of this module."""

    process: Running
    url: str
    database_url: str

    def until_ready(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"{self.url}/readyz").is_success
            except httpx.TransportError:
                return False

        wait_until(answers, "the API to answer", 60)

    def key(self, tenant: str, *scopes: str, unlimited: bool) -> str:
        """Return a new API key of a tenant, which comes into being if need be."""

        async def create() -> str:
            engine = open_engine(self.database_url, pool_size=1, application_name="tests")
            try:
                async with session_factory(engine).begin() as tx:
                    return await create_api_key(tx, tenant, "tests", scopes, unlimited=unlimited)
            finally:
                await engine.dispose()

        return asyncio.run(create())


@pytest.fixture(scope="module")
def server(
    servers: Servers, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    folder = tmp_path_factory.mktemp("api")
    port = free_port()
    with fresh_database(servers) as database_url:
        program = Program(
            name="api",
            command=(sys.executable, "-m", "ops", "api", "--port", str(port)),
            environment={
                **own,
                f"{PREFIX}DATABASE_URL": database_url,
                f"{PREFIX}REDIS_URL": servers.valkey.url,
                f"{PREFIX}SECRET_KEY": "the tests alone sign with this key",
                # For keys that are not unlimited:
                f"{PREFIX}API_RATES": '{"standard/write": "5/second", "standard/bulk": "5/second"}',
            },
        )
        with Running(program, folder / "api.log") as process:
            process.start()
            running = Server(process, f"http://{LOOPBACK}:{port}", database_url)
            running.until_ready()
            yield running


@dataclass
class Shop:
    """A tenant of a test's own, and how to import into it."""

    server: Server
    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.url = self.server.url
        self.key = self.server.key(self.name, "admin", unlimited=True)

    def slow_key(self) -> str:
        """Return a key that may call five times a second."""
        scopes = ("orders:write", "users:write")
        return self.server.key(self.name, *scopes, unlimited=False)

    def file(self, *lines: str, name: str = "orders.csv") -> Path:
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def command(self, file: Path, *options: str) -> list[str]:
        """Return the command line of an import."""
        where = ("--api", self.url, "--api-key", self.key)
        return [sys.executable, "-m", "ops", "import", str(file), *where, *options]

    def run(self, file: Path, *options: str, status: int = 0) -> dict[str, Any]:
        """Import a file and return the summary it ends with."""
        ended = self.attempt(file, "--json", *options)
        assert ended.returncode == status, ended.stderr
        summary: dict[str, Any] = json.loads(ended.stdout)
        assert summary.pop("seconds") > 0
        return summary

    def attempt(self, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Import a file and return how that ended."""
        return subprocess.run(
            self.command(file, *options), capture_output=True, text=True, timeout=120, check=False
        )

    def http(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Call the API beside the import."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.request(method, f"{self.url}/v1{path}", json=body, headers=headers, timeout=10)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query selects; ``%(tenant)s`` in it is this tenant's number."""
        url = make_url(self.server.database_url).set(drivername="postgresql")
        conninfo = url.render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True) as database:
            tenant = database.execute("SELECT id FROM commerce.tenant WHERE name = %s", [self.name])
            ((number,),) = tenant.fetchall()
            return database.execute(query.encode(), {"tenant": number}).fetchall()

    def orders(self) -> int:
        ((count,),) = self.rows("SELECT count(*) FROM commerce.orders WHERE tenant = %(tenant)s")
        return int(count)


@pytest.fixture
def shop(server: Server, tmp_path: Path) -> Shop:
    return Shop(server, tmp_path.name, tmp_path)


def row(key: object, email: str = "anna@example.com", sku: str = "CD", quantity: int = 1) -> str:
    return f"{key},{email},EUR,{sku},{quantity},1499,pm_card_visa"


def many(shop: Shop) -> Path:
    return shop.file(HEADER, *(row(number) for number in range(MANY)))


def summary(accepted: int = 0, replayed: int = 0, refused: int = 0) -> dict[str, int]:
    orders = accepted + replayed + refused
    return {"orders": orders, "accepted": accepted, "replayed": replayed, "refused": refused}


def test_a_second_run_replays_everything_and_adds_nothing(shop: Shop) -> None:
    file = shop.file(HEADER, row("a"), row("a", quantity=2), row("b", "bert@example.com"))
    assert shop.run(file) == summary(accepted=2)
    assert shop.run(file) == summary(replayed=2)
    lines = shop.rows("""
        SELECT u.email, o.total, l.line_no, l.quantity
          FROM commerce.orders o
          JOIN commerce.users u ON u.id = o.user_id
          JOIN commerce.order_line l ON l.order_id = o.id
         WHERE o.tenant = %(tenant)s
         ORDER BY u.email, l.line_no""")
    assert [(email, total, quantity) for email, total, _, quantity in lines] == [
        ("anna@example.com", 3 * 1499, 1),
        ("anna@example.com", 3 * 1499, 2),
        ("bert@example.com", 1499, 1),
    ]
    assert shop.rows("SELECT count(*) FROM goodsyard.job WHERE tenant = %(tenant)s") == [(2,)]


def test_refused_rows_are_kept_with_their_reason_and_the_others_go_in(shop: Shop) -> None:
    rows = [row("a"), row("b", "no address"), row("c", quantity=0), "d,too,short", row("e")]
    file = shop.file(HEADER, *rows)
    assert shop.run(file, status=1) == summary(accepted=2, refused=3)
    kept = (shop.folder / "orders.csv.refused.ndjson").read_text()
    refused = [json.loads(line) for line in kept.splitlines()]
    by_line = {entry["line"]: entry for entry in refused}
    assert sorted(by_line) == [3, 4, 5]
    assert "email" in by_line[3]["reason"]
    assert by_line[4]["reason"].startswith("lines/0/quantity")
    assert by_line[5] == {
        "line": 5,
        "reason": "line 5: it has 3 fields instead of 7",
        "rows": ["d,too,short"],
    }


def test_a_key_that_another_order_has_is_a_refusal(shop: Shop) -> None:
    shop.run(shop.file(HEADER, row("a")))
    other = shop.file(HEADER, row("a", quantity=7), name="other.csv")
    refused = shop.folder / "elsewhere.ndjson"
    assert shop.run(other, "--refused", str(refused), status=1) == summary(refused=1)
    assert "under this key before" in json.loads(refused.read_text())["reason"]
    assert shop.orders() == 1


def test_ndjson_goes_in_with_all_that_an_order_can_carry(shop: Shop) -> None:
    user = shop.http("POST", "/users", {"email": "c@example.com", "username": "c"}).json()["id"]
    order = {
        "idempotency_key": "n-1",
        "user_id": user,
        "currency": "EUR",
        "lines": [{"sku": "CD", "quantity": 1, "unit_amount": 0}],
        "payment_method": "pm_card_visa",
        "metadata": {"channel": ["shop", 7]},
    }
    by_email = order | {"idempotency_key": "n-2", "user_email": "d@example.com"}
    del by_email["user_id"]
    file = shop.file(json.dumps(order), json.dumps(by_email), name="orders.ndjson")
    assert shop.run(file) == summary(accepted=2)
    assert shop.rows("SELECT metadata FROM commerce.orders WHERE tenant = %(tenant)s") == [
        ({"channel": ["shop", 7]},),
        ({"channel": ["shop", 7]},),
    ]


def test_a_user_who_was_there_before_is_found_by_the_address(shop: Shop) -> None:
    body = {"email": "Anna@Example.com", "username": "anna"}
    user = shop.http("POST", "/users", body).json()["id"]
    assert shop.run(shop.file(HEADER, row("a"))) == summary(accepted=1)
    buyers = shop.rows("SELECT user_id::text FROM commerce.orders WHERE tenant = %(tenant)s")
    assert buyers == [(user,)]


def test_stock_is_given_to_unknown_skus_and_left_as_it_is_elsewhere(shop: Shop) -> None:
    shop.http("PUT", "/stock/LP", {"on_hand": 3})
    file = shop.file(HEADER, row("a", sku="CD"), row("b", sku="LP"))
    assert shop.run(file, "--ensure-stock", "500") == summary(accepted=2)
    assert {sku: shop.http("GET", f"/stock/{sku}").json()["on_hand"] for sku in ("CD", "LP")} == {
        "CD": 500,
        "LP": 3,
    }


def test_ctrl_c_ends_it_cleanly_and_the_next_run_goes_on(shop: Shop) -> None:
    file = many(shop)
    quick, shop.key = shop.key, shop.slow_key()
    with subprocess.Popen(shop.command(file), stderr=subprocess.PIPE, text=True) as importing:
        wait_until(lambda: shop.orders() > 0, "the import to have begun", 60)
        importing.send_signal(signal.SIGINT)
        _, said = importing.communicate(timeout=60)
    assert importing.returncode == 130
    assert "Run the same command again to go on" in said
    done = shop.orders()
    assert 0 < done < MANY
    shop.key = quick
    assert shop.run(file) == summary(accepted=MANY - done, replayed=done)
    assert shop.orders() == MANY


def test_an_api_that_is_killed_in_the_middle_costs_no_order_and_doubles_none(shop: Shop) -> None:
    file = many(shop)
    shop.key = shop.slow_key()
    with subprocess.Popen(
        shop.command(file, "--json"), stdout=subprocess.PIPE, text=True
    ) as importing:
        wait_until(lambda: shop.orders() > 0, "the import to have begun", 60)
        shop.server.process.kill()
        assert shop.orders() < MANY
        shop.server.process.start()
        said, _ = importing.communicate(timeout=120)
    assert importing.returncode == 0
    counts = json.loads(said)
    assert counts["accepted"] + counts["replayed"] == MANY
    assert shop.orders() == MANY


def test_a_rate_limit_makes_it_slower_and_nothing_else(shop: Shop) -> None:
    shop.key = shop.slow_key()
    rows = [row(number, f"user{number}@example.com") for number in range(12)]
    assert shop.run(shop.file(HEADER, *rows)) == summary(accepted=12)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda shop: setattr(shop, "key", "gy_live_wrong"), "answered 401"),
        (lambda shop: setattr(shop, "url", f"http://{LOOPBACK}:{free_port()}"), "does not answer"),
        (lambda shop: shop.file("sku,price", name="orders.csv"), "begins with its columns"),
        (lambda shop: (shop.folder / "orders.csv").unlink(), "can't be used"),
    ],
    ids=["wrong key", "wrong address", "wrong columns", "no file"],
)
def test_what_makes_an_import_impossible_is_told_in_a_sentence(
    shop: Shop, break_it: Callable[[Shop], object], told: str
) -> None:
    file = shop.file(HEADER, row("a"))
    break_it(shop)
    ended = shop.attempt(file)
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert shop.orders() == 0


def test_refused_rows_never_overwrite_the_file_they_come_from(shop: Shop) -> None:
    file = shop.file(HEADER, row("a"))
    ended = shop.attempt(file, "--refused", str(file))
    assert ended.returncode == 1
    assert file.read_text().startswith(HEADER)
