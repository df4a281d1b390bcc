"""Carries word of dropped messages to whoever can write it down, and holds nobody up.

A worker node's parent process reads the broker and knows no database; the processes it forks each
have a heartbeat that writes to Postgres. Between them is a pipe, made before the first fork: what
any of them notes, one of them takes.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress

from goodsyard.dropped import Reason

_CAPACITY = 65_536
"""Bytes that the kernel keeps in a pipe (pipe(7)): one read takes all there is."""

_taker, _noter = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def note(reason: Reason) -> None:
    """Note a dropped message; forgotten if the pipe is full, when thousands were dropped before."""
    with suppress(BlockingIOError):
        os.write(_noter, f"{reason}\n".encode())  # a line this short is written whole, or not


def take() -> Counter[Reason]:
    """Return what any process of this worker node has noted since it was last taken."""
    with suppress(BlockingIOError):
        return Counter(map(Reason, os.read(_taker, _CAPACITY).decode().split()))
    return Counter()
