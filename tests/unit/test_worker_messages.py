"""A message is ids and fences; anything else is refused before it gets near the database."""

from __future__ import annotations

import json
from base64 import b64encode
from uuid import UUID

import pytest

from goodsyard.job import new_id
from goodsyard.messages import VERSION, MalformedMessageError, compose, parse

ID = "0192f0c1-2d3e-7abc-8def-0123456789ab"
PACKED = str(compose([(UUID(ID), 1)], 0.0)["jobs"])


def test_what_a_relay_composes_a_worker_parses() -> None:
    deliveries = [(new_id(), 1), (new_id(), 2**31 - 1)]
    received = json.loads(json.dumps(compose(deliveries, 1_700_000_000.5)))
    assert parse(received["v"], received["jobs"]) == deliveries


def test_a_worker_still_reads_what_a_relay_of_the_release_before_sent() -> None:
    assert parse(1, [[ID, 3]]) == [(UUID(ID), 3)]


@pytest.mark.parametrize(
    ("version", "jobs"),
    [
        (None, [[ID, 1]]),
        (VERSION + 1, PACKED),
        (VERSION, PACKED[:-4]),
        (VERSION, f"{PACKED}é"),
        (VERSION, b64encode(UUID(ID).bytes + b"\xff\xff\xff\xff").decode()),
        (VERSION, [[ID, 1]]),
        (1, PACKED),
        (VERSION, None),
        (1, None),
        (1, {ID: 1}),
        (VERSION, "jobs!"),
        (1, [ID]),
        (1, [[ID]]),
        (1, [[ID, 1, 1]]),
        (1, [[1, ID]]),
        (1, [[ID, "1"]]),
        (1, [[ID, 1.5]]),
        (1, [[ID, None]]),
        (1, [[ID, -1]]),
        (1, [[ID, 2**31]]),
        (1, [[ID, float("inf")]]),
        (1, [["no id", 1]]),
        (1, [7]),
        (1, [[ID, 1], None]),
    ],
)
def test_a_message_of_another_form_is_refused_whole(version: object, jobs: object) -> None:
    with pytest.raises(MalformedMessageError):
        parse(version, jobs)
