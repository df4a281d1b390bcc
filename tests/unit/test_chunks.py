"""How dispatched jobs are shared out to messages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from goodsyard.dispatch import BATCH, QUARANTINE_AFTER, Dispatched, batch_size, chunks
from goodsyard.job import new_id

NOW = datetime.now(UTC)


def dispatched(count: int, lost: int = 0, priority: int = 5) -> list[Dispatched]:
    return [Dispatched(new_id(), 1, lost, 0.0, priority, NOW, 1) for _ in range(count)]


def sizes(count: int, *, most: int, workers: int, more: bool = False) -> list[int]:
    shared = chunks(dispatched(count), most=most, workers=workers, more=more)
    return [len(chunk.deliveries) for chunk in shared]


def test_nothing_makes_no_message() -> None:
    assert chunks([], most=200, workers=4) == []


def test_a_lone_job_goes_alone_and_at_once() -> None:
    assert sizes(1, most=200, workers=4) == [1]


@pytest.mark.parametrize(
    ("workers", "expected"), [(1, [120]), (2, [60, 60]), (4, [30] * 4), (8, [25] * 4 + [20])]
)
def test_a_backlog_is_shared_among_the_workers_down_to_what_is_worth_a_message(
    workers: int, expected: list[int]
) -> None:
    assert sizes(120, most=200, workers=workers) == expected


def test_a_backlog_that_goes_on_is_sent_in_chunks_as_large_as_the_kind_allows() -> None:
    assert sizes(500, most=200, workers=8, more=True) == [200, 200, 100]


@pytest.mark.parametrize(
    ("chunk", "workers", "expected"), [(1, 0, 2), (1, 4, 8), (200, 2, 800), (200, 8, BATCH)]
)
def test_a_batch_is_a_chunk_for_each_worker_and_one_in_reserve(
    chunk: int, workers: int, expected: int
) -> None:
    assert batch_size(chunk, workers) == expected


def test_no_chunk_is_larger_than_the_kind_allows() -> None:
    assert max(sizes(499, most=50, workers=1)) == 50


def test_a_queue_without_a_known_worker_gets_its_jobs_all_the_same() -> None:
    assert sum(sizes(10, most=200, workers=0)) == 10


def test_every_job_is_in_exactly_one_message() -> None:
    batch = dispatched(301) + dispatched(7, lost=1) + dispatched(3, lost=5)
    shared = [one for chunk in chunks(batch, most=40, workers=3) for one in chunk.deliveries]
    assert sorted(shared) == sorted(job.delivery for job in batch)


def test_a_job_that_was_lost_before_goes_alone() -> None:
    suspect = dispatched(1, lost=1)
    shared = chunks(dispatched(50) + suspect, most=200, workers=1)
    assert [c for c in shared if suspect[0].delivery in c.deliveries] == [
        type(shared[0])((suspect[0].delivery,), quarantined=False)
    ]


def test_a_job_that_keeps_being_lost_goes_to_quarantine() -> None:
    for lost in range(QUARANTINE_AFTER + 3):
        (chunk,) = chunks(dispatched(1, lost=lost), most=200, workers=1)
        assert chunk.quarantined is (lost >= QUARANTINE_AFTER)
