"""How many requests one API process takes, over 64 connections that are never idle.

``bare fastapi`` does the same INSERTs and nothing else: what remains is what Goodsyard adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import orjson

from benchmarks.arms import Arm, Figures
from benchmarks.load import Answers
from benchmarks.orders import MAX_BULK, bulks, orders
from benchmarks.processes import BenchmarkError, port_of
from benchmarks.sections.queue import SYSTEM
from benchmarks.yard import Shop, Yard

BARE = "bare fastapi"

_REQUESTS = 10_000
_BULK_ORDERS = 60_000
_CLIENTS = 64
_BULK_CLIENTS = 4

_WARM_PART = 0.1

_COMMANDS = {SYSTEM: (), BARE: ("-m", "benchmarks.bare_api")}

_Requests: TypeAlias = Sequence[tuple[dict[str, str], dict[str, object]]]
"""Headers and body of each."""


def arms(shop: Shop) -> list[Arm]:
    """Return the arms of ``api_single`` and ``api_bulk``; each fills its percentiles' too."""
    singles = [
        Arm("api_single", system, _REQUESTS, partial(_single, shop, system), warms_up=False)
        for system in _COMMANDS
    ]
    return [*singles, Arm("api_bulk", SYSTEM, _BULK_ORDERS, partial(_bulk, shop), warms_up=False)]


def _single(shop: Shop, system: str, requests: int) -> Figures:
    with shop.yard() as yard:
        address = yard.start_api(*_COMMANDS[system])
        singles = [
            ({**_authorization(yard), "Idempotency-Key": f"order-{number}"}, order)
            for number, order in enumerate(orders(yard.users(), requests))
        ]
        answers = _load(yard, address, "/v1/orders", singles, _CLIENTS, "202")
        _see_that_all_are_there(yard, requests)
    return {
        "api_single": {system: answers["rate"]},
        "api_single_p50": {system: answers["p50"]},
        "api_single_p99": {system: answers["p99"]},
        "api_single_client": {system: answers["cpu"]},
    }


def _bulk(shop: Shop, number: int) -> Figures:
    with shop.yard() as yard:
        address = yard.start_api()
        sent = [(_authorization(yard), bulk) for bulk in bulks(yard.users(), number)]
        answers = _load(yard, address, "/v1/orders/bulk", sent, _BULK_CLIENTS, "200")
        _see_that_all_are_there(yard, number)
    return {
        "api_bulk": {SYSTEM: answers["rate"] * min(number, MAX_BULK)},
        "api_bulk_p50": {SYSTEM: answers["p50"]},
        "api_bulk_p99": {SYSTEM: answers["p99"]},
    }


def _authorization(yard: Yard) -> dict[str, str]:
    return {"Authorization": f"Bearer {yard.api_key}"}


def _load(  # noqa: PLR0913, PLR0917 - what a load is
    yard: Yard, address: str, path: str, requests: _Requests, clients: int, status: str
) -> Answers:
    file, result = yard.ground.folder / "requests.json", yard.ground.folder / "answers.json"
    file.write_bytes(orjson.dumps(requests))
    yard.run(
        "load",
        *("-m", "benchmarks.load", str(file), str(result), "--path", path),
        *("--port", str(port_of(address)), "--clients", str(clients)),
        *("--warm", str(round(len(requests) * _WARM_PART))),
    )
    answers: Answers = orjson.loads(result.read_bytes())
    if answers["statuses"].keys() != {status}:
        raise BenchmarkError(f"not all answers have status {status}: {answers['statuses']}")
    return answers


def _see_that_all_are_there(yard: Yard, orders_sent: int) -> None:
    for what in ("commerce.orders", "goodsyard.job"):
        there = yard.number(f"SELECT count(*) FROM {what}")  # noqa: S608 - one of the two above
        if there != orders_sent:
            raise BenchmarkError(f"{there} rows in {what} of {orders_sent} orders")
