"""What a handler says of its job is mended, not refused; what it isn't told doesn't stop it."""

from __future__ import annotations

import math
from uuid import uuid4

import pytest

from goodsyard.job import Job
from goodsyard.progress import TEXT_LENGTH, heard
from goodsyard.run import JobCancelledError, Run
from tests.yard import Note


@pytest.mark.parametrize(
    ("said", "kept"),
    [(0, 0.0), (0.4, 0.4), (1, 1.0), (-0.1, 0.0), (1.7, 1.0), (math.inf, 1.0), (-math.inf, 0.0)],
)
def test_a_fraction_outside_its_bounds_is_mended(said: float, kept: float) -> None:
    run = Run(7)
    run.progress(said, "x" * 1_000)
    assert run.word is not None
    assert (run.word.fence, run.word.fraction) == (7, kept)
    assert run.word.text == "x" * TEXT_LENGTH


def test_what_is_no_number_is_as_if_nothing_were_said() -> None:
    run = Run()
    run.progress(0.4)
    before = run.word
    run.progress(math.nan, "lost count")
    assert run.word is before


def test_a_job_that_no_worker_runs_speaks_and_listens_in_vain() -> None:
    job = Job(uuid4(), 1, 0.0, Note())
    job.run.progress(0.5, "half")
    job.run.check()
    assert job == Job(job.id, 1, 0.0, Note())


def test_a_run_that_is_called_off_hears_of_it_at_each_check() -> None:
    run = Run()
    run.check()
    run.call_off()
    for _ in range(2):
        with pytest.raises(JobCancelledError, match="called off"):
            run.check()


@pytest.mark.parametrize("message", ["", "soon", "{}", '[["no-id", {}]]', "\x00"])
def test_a_message_that_is_not_ours_says_nothing(message: str) -> None:
    assert heard(message) == []
