"""Word of a dropped message reaches whoever takes it, and nobody waits for that."""

from __future__ import annotations

from goodsyard.dropped import Reason
from workers import tally


def test_what_is_noted_is_taken_once() -> None:
    tally.note(Reason.STALE)
    tally.note(Reason.UNKNOWN)
    tally.note(Reason.STALE)
    assert tally.take() == {Reason.STALE: 2, Reason.UNKNOWN: 1}
    assert not tally.take()


def test_notes_that_nobody_takes_hold_nobody_up() -> None:
    for _ in range(100_000):
        tally.note(Reason.UNREADABLE)
    assert tally.take()
    assert not tally.take()
