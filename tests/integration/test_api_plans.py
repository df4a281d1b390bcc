"""Lists stay quick however long the history is: each of their queries is a seek by index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from tests.integration.conftest import Api, order_for

pytestmark = pytest.mark.in_process("counts or explains the statements of the process")

ROWS = 20_000

# Half of the history is another tenant's; ids are in the order of time, as real ones are.
_FILL = """
    INSERT INTO goodsyard.{heap} (id, tenant, kind, state, max_attempts, payload)
    SELECT uuidv7(make_interval(secs => n - {rows})), 1 + n % 2,
           CASE WHEN n % 10 = 0 THEN 'payments.charge' ELSE 'orders.process' END,
           CASE WHEN n % 100 = 0 THEN '{rare}' ELSE '{usual}' END::goodsyard.job_state, 9, '{{}}'
      FROM generate_series(1, {rows}) AS n
"""
_ORDERS = """
    WITH filled AS (
        INSERT INTO commerce.orders (id, tenant, user_id, currency, total, payment_method,
                                     status)
        SELECT uuidv7(make_interval(secs => n - :rows)), 1, (SELECT id FROM commerce.users LIMIT 1),
               'EUR', 1, 'pm_card_visa',
               CASE n WHEN 7 THEN 'reserved' WHEN 8 THEN 'refunded' ELSE 'paid'
                END::commerce.order_status
          FROM generate_series(1, :rows) AS n
        RETURNING id)
    INSERT INTO commerce.order_line (order_id, line_no, tenant, sku, quantity, unit_amount)
    SELECT id, 1, 1, 'CD', 1, 1 FROM filled
"""


async def _fill(api: Api) -> str:
    user = await api.user()
    await api.submit(order_for(user))
    async with api.sessions.begin() as tx:
        for heap, rare, usual in (
            ("job", "dead", "waiting"),
            ("job_done", "cancelled", "succeeded"),
        ):
            filling = _FILL.format(heap=heap, rare=rare, usual=usual, rows=ROWS)
            await tx.execute(text(filling))
        await tx.execute(text(_ORDERS), {"rows": ROWS})
    async with api.sessions.begin() as tx:
        await tx.execute(text("ANALYZE"))
    return user


@contextmanager
def _queries(api: Api) -> Iterator[list[tuple[str, Any]]]:
    """Collect the queries on tables that grow, as the driver gets them."""
    queries: list[tuple[str, Any]] = []
    engine = api.services.sessions.kw["bind"].sync_engine

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if any(heap in statement for heap in ("goodsyard.job", "commerce.order")):
            queries.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield queries
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _plan(url: str, statement: str, parameters: Any) -> str:  # noqa: ANN401 - the driver's own
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(f"EXPLAIN {statement}".encode(), parameters).fetchall()
    return "\n".join(row[0] for row in rows)


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """One of its own, since the planner goes by what was ever in its tables."""
    return own_database_url


async def test_no_list_reads_through_the_history(api: Api, database_url: str) -> None:
    user = await _fill(api)
    for path, params in (
        ("/v1/jobs", {}),
        ("/v1/jobs", {"state": "dead"}),
        ("/v1/jobs", {"state": "succeeded"}),
        ("/v1/jobs", {"state": "waiting"}),
        ("/v1/jobs", {"kind": "payments.charge"}),
        ("/v1/jobs", {"queue": "orders", "state": "cancelled"}),
        ("/v1/orders", {}),
        ("/v1/orders", {"status": "paid"}),
        ("/v1/orders", {"status": "reserved"}),
        ("/v1/orders", {"status": "refunded"}),
        ("/v1/orders", {"status": "payment_failed"}),
        ("/v1/orders", {"user_id": user}),
        (f"/v1/users/{user}/orders", {}),
    ):
        with _queries(api) as queries:
            page = (await api.http.get(path, params=params)).json()
            if page["next_cursor"]:
                further = {**params, "cursor": page["next_cursor"]}
                assert (await api.http.get(path, params=further)).status_code == 200
        assert queries
        for statement, parameters in queries:
            plan = _plan(database_url, statement, parameters)
            assert "Index" in plan, plan
            assert "Seq Scan" not in plan, f"{path} {params}\n{plan}"


async def test_what_a_single_read_asks_is_a_seek(api: Api, database_url: str) -> None:
    await _fill(api)
    job = (await api.http.get("/v1/jobs", params={"state": "succeeded"})).json()["data"][0]
    order = (await api.http.get("/v1/orders")).json()["data"][0]
    with _queries(api) as queries:
        for href in (job["href"], order["href"]):
            assert (await api.http.get(href)).status_code == 200
    for statement, parameters in queries:
        plan = _plan(database_url, statement, parameters)
        assert "Seq Scan on job " not in plan, plan
        assert "Seq Scan on job_done" not in plan, plan
        assert "Seq Scan on orders" not in plan, plan


async def test_a_rare_status_is_found_without_reading_past_the_others(
    api: Api, database_url: str
) -> None:
    await _fill(api)
    for status, rows in (("reserved", 1), ("refunded", 1), ("cancelled", 0), ("pending", 1)):
        with _queries(api) as queries:
            page = (await api.http.get("/v1/orders", params={"status": status})).json()
        assert len(page["data"]) == rows
        plan = _plan(database_url, *queries[0])
        assert "orders_listed" in plan, plan
        assert "listed_as = " in plan, plan


async def test_orders_come_with_their_lines_in_as_many_queries_for_one_as_for_a_hundred(
    api: Api,
) -> None:
    user = await api.user()
    counts = []
    for more in (1, 99):
        for _ in range(more):
            await api.submit(order_for(user))
        for path, params in ((f"/v1/users/{user}/orders", {}), ("/v1/orders", {"user_id": user})):
            await api.http.get(path, params={**params, "limit": 200})  # whoever asks is known now
            with _queries(api) as queries:
                page = (await api.http.get(path, params={**params, "limit": 200})).json()
            assert all(order["lines"] for order in page["data"])
            counts.append((len(page["data"]), len(queries)))
    assert counts == [(1, 2), (1, 2), (100, 2), (100, 2)]


async def test_top_customers_of_a_small_tenant_do_not_read_the_history_of_a_big_one(
    api: Api, database_url: str
) -> None:
    await _fill(api)
    small = await api.caller("admin", tenant="elsewhere")
    with _queries(api) as queries:
        answer = await api.http.get("/v1/reports/top-customers", headers=small)
        assert answer.json()["data"] == []
    plan = _plan(database_url, *queries[0])
    assert "Seq Scan on orders" not in plan, plan
    assert "Index Cond: (tenant = " in plan, plan
