"""A message is ids and fences; anything else is refused before it gets near the database."""

from __future__ import annotations

import json

import pytest

from goodsyard.job import new_id
from workers.messages import VERSION, MalformedMessageError, compose, parse

ID = "0192f0c1-2d3e-7abc-8def-0123456789ab"


def test_what_a_relay_composes_a_worker_parses() -> None:
    deliveries = [(new_id(), 1), (new_id(), 2**31 - 1)]
    received = json.loads(json.dumps(compose(deliveries, 1_700_000_000.5)))
    assert parse(received["v"], received["jobs"]) == deliveries


@pytest.mark.parametrize(
    ("version", "jobs"),
    [
        (None, [[ID, 1]]),
        (VERSION + 1, [[ID, 1]]),
        (VERSION, None),
        (VERSION, {ID: 1}),
        (VERSION, "jobs"),
        (VERSION, [ID]),
        (VERSION, [[ID]]),
        (VERSION, [[ID, 1, 1]]),
        (VERSION, [[1, ID]]),
        (VERSION, [[ID, "1"]]),
        (VERSION, [[ID, 1.5]]),
        (VERSION, [[ID, None]]),
        (VERSION, [[ID, -1]]),
        (VERSION, [[ID, 2**31]]),
        (VERSION, [[ID, float("inf")]]),
        (VERSION, [["no id", 1]]),
        (VERSION, [7]),
        (VERSION, [[ID, 1], None]),
    ],
)
def test_a_message_of_another_form_is_refused_whole(version: object, jobs: object) -> None:
    with pytest.raises(MalformedMessageError):
        parse(version, jobs)
