"""Passwords are kept as Argon2id hashes, made and compared off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
import secrets
from functools import cache

from pwdlib import PasswordHash

# Each hash takes 64 MiB and some 50 ms of a core by design.
_AT_ONCE = 2


@cache
def _hasher() -> PasswordHash:
    return PasswordHash.recommended()


@cache
def _nobodys() -> str:
    """Return a hash that no password fits, as costly to compare with as any."""
    return _hasher().hash(secrets.token_urlsafe())


class Passwords:
    """Hashes and compares passwords without holding up the event loop."""

    def __init__(self) -> None:
        """Allow a few hashes at a time; the others wait their turn."""
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, password: str) -> str:
        """Return the hash to store, with its salt and parameters."""
        async with self._turns:
            return await asyncio.to_thread(_hasher().hash, password)

    async def fits(self, password: str, password_hash: str | None) -> bool:
        """Whether ``password`` is the one that was hashed.

        Args:
            password: what somebody says.
            password_hash: the hash; ``None`` of somebody who doesn't exist, which takes as long.
        """
        async with self._turns:
            return await asyncio.to_thread(_fits, password, password_hash)


def _fits(password: str, password_hash: str | None) -> bool:
    nobodys = _nobodys()  # made before either comparison: it takes as long as one
    return _hasher().verify(password, password_hash or nobodys) and password_hash is not None
