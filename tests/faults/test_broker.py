"""Redis may forget everything, repeat anything or hold nonsense: no job depends on a message."""

from __future__ import annotations

import base64
import json
import os
import pickle
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from goodsyard.dispatch import DISPATCH_SECONDS
from tasks.contracts import QUEUES
from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

pytestmark = pytest.mark.faults

STRANGER = "01980000-0000-7000-8000-000000000000"
"""The id of no job."""


@pytest.mark.row(number=8)
@pytest.mark.parametrize(
    "flushes",
    [
        pytest.param(4, id="4 times"),
        pytest.param(20, id="20 times", marks=pytest.mark.long),
    ],
)
def test_a_flushed_broker_loses_nothing_and_is_filled_again_within_three_seconds(
    system: System,
    shop: Shop,
    redis: Redis,
    measured: Callable[[str, float], None],
    flushes: int,
) -> None:
    flushed, took, orders = 0, list[float](), 150 * flushes
    with system.cluster.relay():
        shop.order(orders)
        for flush in range(flushes):
            shop.until_charged(1 + flush * orders // (2 * flushes))
            flushed += _flush(redis, shop)
            began = time.monotonic()
            shop.until_sent_again()
            took.append(time.monotonic() - began)
    measured(f"{flushed} messages lost in {flushes} flushes, all sent again after", max(took))
    assert flushed > 0
    assert max(took) < 3

    shop.until_settled()
    assert shop.most_lost() == 0, "Redis forgot them: no worker is to blame"
    assert_invariants(shop)


def _flush(redis: Redis, shop: Shop) -> int:
    """Empty Redis as soon as it holds messages, and return how many."""
    shop.until(lambda: any(redis.llen(queue) for queue in QUEUES), "messages to lose")
    with redis.pipeline(transaction=True) as pipe:
        for queue in QUEUES:
            pipe.llen(queue)
        pipe.flushall()
        *lengths, _ = pipe.execute()
    return sum(lengths)


@pytest.mark.row(number=15)
def test_messages_that_vanish_unnoticed_are_sent_again_by_their_deadline(
    system: System, shop: Shop, redis: Redis
) -> None:
    shop.order(300)
    shop.until_charged(1)
    # What a failover to a replica that lagged behind loses: the tail of the queues, not the epoch.
    vanished = 0
    while not vanished:
        with redis.pipeline(transaction=True) as pipe:
            for queue in QUEUES:
                pipe.llen(queue)
            pipe.delete(*QUEUES)
            *lengths, _ = pipe.execute()
        vanished = sum(lengths)
    began = time.monotonic()
    shop.until_sent_again()
    took = time.monotonic() - began
    print(f"{vanished} messages sent again after {took:.2f} s")  # noqa: T201 - see -rP
    assert took < DISPATCH_SECONDS + 3
    shop.until_settled()
    assert shop.most_lost() == 1
    assert_invariants(shop)


def _envelope(**changes: object) -> bytes:
    """Return a message as kombu writes it, changed for the worse."""
    message = {
        "body": base64.b64encode(json.dumps([[], {}, {}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "orders.process", "id": STRANGER, "argsrepr": "()"},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "orders"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": STRANGER,
        },
    }
    return json.dumps(message | changes).encode()


def _zeros_packed(content_type: str) -> bytes:
    """Return a message of a few kilobytes that unpacks to two gigabytes."""
    packer = zlib.compressobj(level=9)
    zeros = bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(2_000)) + packer.flush()
    headers = {"task": "orders.process", "id": STRANGER, "compression": content_type}
    return _envelope(headers=headers, body=base64.b64encode(packed).decode())


@pytest.mark.row(number=31)
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(b"\x00\xff not JSON at all", "unreadable", id="no JSON"),
        pytest.param(b"[]", "unreadable", id="a list"),
        pytest.param(b"{}", "unreadable", id="an empty object"),
        pytest.param(b"[" * 2**20, "unreadable", id="a million brackets"),
        pytest.param(_envelope(body="%%%"), "unreadable", id="a body that is no base64"),
        pytest.param(_envelope(body="NQ=="), "unreadable", id="a body that is a number"),
        pytest.param(_envelope(body="e30="), "unreadable", id="a body that is an object"),
        pytest.param(
            _envelope(**{"content-type": "application/x-python-serialize"}),
            "unreadable",
            id="pickle",
        ),
        pytest.param(_envelope(headers={}), "unreadable", id="no task"),
        pytest.param(_envelope(headers={"task": []}), "unreadable", id="a list for a task"),
        pytest.param(
            _envelope(headers={"task": "orders.unheard_of"}),
            "unreadable",
            id="a task without an id",
        ),
        pytest.param(
            _envelope(headers={"task": "orders.unheard_of", "id": STRANGER}),
            "unknown",
            id="an unknown task",
        ),
        pytest.param(
            _envelope(headers={"task": "orders.process", "id": {}}), "unreadable", id="an odd id"
        ),
        pytest.param(_zeros_packed("gzip"), "unreadable", id="a zip bomb"),
        pytest.param(_envelope(body="W1td" * 2**24), "unreadable", id="64 megabytes"),
    ],
)
def test_a_message_that_cannot_be_read_is_counted_and_its_worker_goes_on(
    system: System, shop: Shop, redis: Redis, message: bytes, reason: str
) -> None:
    processes, dropped = system.worker.offspring, shop.dropped()
    redis.lpush("orders", message)
    shop.order(10)
    began = time.monotonic()
    shop.until_settled()
    assert time.monotonic() - began < 5
    assert system.worker.offspring == processes
    shop.until(lambda: shop.dropped() - dropped == {reason: 1}, f"it to be counted as {reason}")
    assert_invariants(shop)


class _Loaded:
    """Says so in a file, when somebody unpickles it."""

    def __init__(self, said_in: Path) -> None:
        self._said_in = said_in

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._said_in),)


def _packed(content_type: str, body: bytes) -> bytes:
    encoded = base64.b64encode(body).decode()
    return _envelope(**{"content-type": content_type, "content-encoding": "binary"}, body=encoded)


@pytest.mark.row(number=31)
def test_code_in_a_message_is_not_run(
    system: System, shop: Shop, redis: Redis, tmp_path: Path
) -> None:
    processes, dropped = system.worker.offspring, shop.dropped()
    ran = tmp_path / "ran"
    pickled = pickle.dumps([[_Loaded(ran)], {}, {}])
    written = f"!!python/object/apply:os.mkdir ['{ran}']".encode()
    for kind in ("application/x-python-serialize", "application/x-yaml", "application/json"):
        redis.lpush("orders", _packed(kind, pickled), _packed(kind, written))
    shop.until(lambda: shop.dropped() - dropped == {"unreadable": 6}, "all to be dropped")
    shop.order(3)
    shop.until_settled()
    assert system.worker.offspring == processes
    assert not ran.exists()
    pickle.loads(pickled)  # noqa: S301 - ours: to see that it would have been
    assert ran.exists()


_STALE = {"v": 1, "jobs": [[STRANGER, 1]]}
_STEP = {"task": "payments.charge", "args": [], "kwargs": _STALE, "options": {"queue": "payments"}}


def _asking(
    headers: dict[str, object], *, steps: object = None, args: Sequence[object] = ()
) -> bytes:
    body = json.dumps([args, _STALE, steps])
    named = {"lang": "py", "task": "orders.process", "id": STRANGER, "argsrepr": "()", **headers}
    return _envelope(headers=named, body=base64.b64encode(body.encode()).decode())


@pytest.mark.row(number=31)
def test_a_message_starts_nothing_but_the_task_it_names(
    system: System, shop: Shop, redis: Redis
) -> None:
    """Each step would be run, and counted as stale: its job is a stranger's."""
    processes, dropped = system.worker.offspring, shop.dropped()
    steps: dict[str, object] = {
        "callbacks": [_STEP],
        "errbacks": [_STEP],
        "chain": [_STEP],
        "chord": _STEP,
    }
    times: dict[str, object] = {"eta": "2030-01-01T00:00:00", "timelimit": [0.001, None]}
    forged = [
        *(_asking({}, steps={name: step}) for name, step in steps.items()),
        *(_asking({name: step}) for name, step in (steps | times).items()),
        _asking({}, steps=[1]),
    ]
    theirs = [
        _asking({"task": f"celery.{name}"}, args=[_STEP, [[1]] * 3])
        for name in ("map", "starmap", "chunks", "group", "chain", "chord", "backend_cleanup")
    ]
    redis.lpush("orders", *forged, *theirs)
    counted = {"unreadable": len(forged), "unknown": len(theirs)}
    shop.until(lambda: shop.dropped() - dropped == counted, "all to be dropped")
    shop.order(3)
    shop.until_settled()
    assert shop.dropped() - dropped == counted
    assert system.worker.offspring == processes


@pytest.mark.row(number=30)
@pytest.mark.row(number=31)
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(("orders.unheard_of", []), "unknown", id="an unknown kind"),
        pytest.param(("orders.process", None), "malformed", id="nothing"),
        pytest.param(("orders.process", "many"), "malformed", id="no list"),
        pytest.param(("orders.process", [["x", 1]]), "malformed", id="no id"),
        pytest.param(("orders.process", [[STRANGER, None]]), "malformed", id="no fence"),
        pytest.param(("orders.process", [[STRANGER, 2**40]]), "malformed", id="a huge fence"),
        pytest.param(("orders.process", [[STRANGER, 1]]), "stale", id="an unknown job"),
        pytest.param(("payments.charge", [[STRANGER, 1]]), "stale", id="an unknown charge"),
    ],
)
def test_a_message_that_makes_no_sense_is_counted_and_its_worker_goes_on(
    system: System, shop: Shop, stranger: Celery, message: tuple[str, object], reason: str
) -> None:
    processes, dropped = system.worker.offspring, shop.dropped()
    task, jobs = message
    stranger.send_task(task, kwargs={"v": 1, "jobs": jobs}, queue="orders", ignore_result=True)
    shop.order(10)
    shop.until_settled()
    assert system.worker.offspring == processes
    shop.until(lambda: shop.dropped() - dropped == {reason: 1}, f"it to be counted as {reason}")
    assert_invariants(shop)


def test_a_message_of_another_version_is_counted_and_its_worker_goes_on(
    shop: Shop, stranger: Celery
) -> None:
    dropped = shop.dropped()
    kwargs = {"v": 99, "jobs": []}
    stranger.send_task("orders.process", kwargs=kwargs, queue="orders", ignore_result=True)
    shop.until(lambda: shop.dropped() - dropped == {"malformed": 1}, "it to be counted")
