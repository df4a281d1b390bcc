"""What a request costs without us: FastAPI, the same four INSERTs in one commit, an answer.

No authentication, no replay of a key, no check of the user but the database's own, no limit of
rates: the least that takes an order in. Uvicorn on uvloop and httptools, as many connections as
ours.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

import orjson
import uvicorn
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from psycopg.types.json import Jsonb, set_json_dumps
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field
from sqlalchemy.engine import make_url
from uuid_utils.compat import uuid7

from benchmarks.yard import TENANT
from producers.services import POOL_SIZE

# One statement, so one round trip and one commit: four in a transaction took fewer requests.
_INSERT = """
WITH new_key AS (
    INSERT INTO goodsyard.request_key (tenant, key, hash, resource)
    VALUES (%(tenant)s, %(key)s, %(hash)s, %(resource)s)),
new_order AS (
    INSERT INTO commerce.orders (id, tenant, user_id, currency, total, payment_method, metadata)
    VALUES (%(order)s, %(tenant)s, %(user)s, %(currency)s, %(total)s, %(method)s, %(metadata)s)),
new_line AS (
    INSERT INTO commerce.order_line (order_id, line_no, tenant, sku, quantity, unit_amount)
    SELECT %(order)s, line_no, %(tenant)s, sku, quantity, unit_amount
      FROM unnest(%(line_numbers)s::smallint[], %(skus)s::text[], %(quantities)s::int[],
                  %(units)s::bigint[])
        AS l(line_no, sku, quantity, unit_amount))
INSERT INTO goodsyard.job (id, tenant, kind, max_attempts, subject, payload)
VALUES (%(job)s, %(tenant)s, 'orders.process', 10, %(order)s, %(payload)s)
"""


class Line(BaseModel):
    """A line of an order."""

    sku: str
    quantity: int
    unit_amount: int


class Order(BaseModel):
    """An order, as ours is sent."""

    user_id: UUID
    currency: str
    lines: list[Line] = Field(min_length=1)
    payment_method: str
    metadata: dict[str, Any] = {}  # whatever the caller wants to find again


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = make_url(os.environ["GOODSYARD_DATABASE_URL"]).set(drivername="postgresql")
    conninfo = url.render_as_string(hide_password=False)
    async with AsyncConnectionPool(
        conninfo, min_size=POOL_SIZE, kwargs={"autocommit": True}, open=False
    ) as pool:
        await pool.wait()
        app.state.pool = pool
        yield


app = FastAPI(lifespan=_lifespan)
set_json_dumps(lambda value: orjson.dumps(value).decode())


@app.post("/v1/orders", status_code=202)
async def submit(
    request: Request, order: Order, idempotency_key: Annotated[str, Header()]
) -> JSONResponse:
    """Take an order in."""
    order_id, job_id = uuid7(), uuid7()
    total = sum(line.quantity * line.unit_amount for line in order.lines)
    row = {
        "tenant": TENANT,
        "key": idempotency_key,
        "hash": sha256(await request.body()).digest(),
        "resource": Jsonb({"order": str(order_id), "job": str(job_id)}),
        "order": order_id,
        "user": order.user_id,
        "currency": order.currency,
        "total": total,
        "method": order.payment_method,
        "metadata": Jsonb(order.metadata),
        "line_numbers": list(range(1, len(order.lines) + 1)),
        "skus": [line.sku for line in order.lines],
        "quantities": [line.quantity for line in order.lines],
        "units": [line.unit_amount for line in order.lines],
        "job": job_id,
        "payload": Jsonb({"order_id": str(order_id)}),
    }
    pool: AsyncConnectionPool = request.app.state.pool
    async with pool.connection() as connection:
        await connection.execute(_INSERT, row)
    document = {
        "id": str(order_id),
        "status": "pending",
        "total": {"amount": total, "currency": order.currency},
        **order.model_dump(mode="json"),
    }
    return JSONResponse({"order": document, "job": {"id": str(job_id)}}, 202)


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )


if __name__ == "__main__":
    main()
