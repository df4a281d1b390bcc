"""Lists stay quick however long the history is: each of their queries is a seek by index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from tests.integration.conftest import Api, order_for

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
               'EUR', 1, 'pm_card_visa', 'paid'
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
