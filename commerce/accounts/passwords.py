"""Passwords are kept as Argon2id hashes, made off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from functools import cache

from pwdlib import PasswordHash

# Each hash takes 64 MiB and some 50 ms of a core by design.
_AT_ONCE = 2


@cache
def _hasher() -> PasswordHash:
    return PasswordHash.recommended()


class Passwords:
    """Hashes passwords without holding up the event loop."""

    def __init__(self) -> None:
        """Allow a few hashes at a time; the others wait their turn."""
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, password: str) -> str:
        """Return the hash to store, with its salt and parameters."""
        async with self._turns:
            return await asyncio.to_thread(_hasher().hash, password)
