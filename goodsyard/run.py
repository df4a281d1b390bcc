"""What a job that a worker carries out can say about itself, and hear from outside."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from goodsyard.progress import TEXT_LENGTH, Progress


class JobCancelledError(Exception):
    """Somebody has called the job off while it ran. Let it pass: the job then ends as cancelled."""


class Run:
    """One run of a job, as its handler has it in hand; it may be used from any thread.

    Only external kinds are heard: the job of a database kind is over with its chunk's transaction,
    within milliseconds. There, as in a test of a handler, both methods do nothing.
    """

    def __init__(self, fence: int = 0) -> None:
        """Begin the run that was delivered under ``fence``."""
        self._fence = fence
        self._is_called_off = False
        self.word: Progress | None = None
        """The latest thing it has said."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the job is, as often as you like: only the latest word is passed on.

        It costs an assignment, is never an error and may be lost. A report must not be what a job
        fails of, so a fraction that is none is mended: below 0 is 0, above 1 is 1, and not a number
        is as if nothing were said.

        Args:
            fraction: how much of it is done, from 0 to 1.
            text: what it is at, in a line; beyond ``TEXT_LENGTH`` characters it is cut off.
        """
        if not math.isnan(fraction):
            done = min(max(float(fraction), 0.0), 1.0)
            self.word = Progress(self._fence, done, text[:TEXT_LENGTH], datetime.now(UTC))

    def check(self) -> None:
        """Return if the job is to go on. Call it where the work may stop without harm.

        A cancel is known here within a second or so. Whoever never checks is never stopped.

        Raises:
            JobCancelledError: it was called off.
        """
        if self._is_called_off:
            message = "called off while it ran"
            raise JobCancelledError(message)

    def call_off(self) -> None:
        """Have the next ``check`` raise."""
        self._is_called_off = True
