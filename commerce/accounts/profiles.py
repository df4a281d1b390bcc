"""Users as they are shown, read through Redis; one who was erased isn't shown from a cache.

An erasure leaves a tombstone in Redis, and a reader only fills in where there is nothing: so a
read that began before the erasure can't put the person back. If Redis was away when the tombstone
was due, a copy lives on for ``TTL_SECONDS`` at the most.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import redis.asyncio
from pydantic import TypeAdapter

from commerce.accounts.models import User
from commerce.accounts.users import find_user
from goodsyard.breaker import Breaker
from goodsyard.database import Sessions

TTL_SECONDS = 60

_TOMBSTONE = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is shown of a user."""

    id: UUID
    email: str | None
    username: str | None
    full_name: str | None
    created_at: datetime


_as_json = TypeAdapter(Profile)


def profile_of(user: User) -> Profile:
    """Return what is shown of a user."""
    return Profile(user.id, user.email, user.username, user.full_name, user.created_at)


class Profiles:
    """Reads users, from Redis where it has them."""

    def __init__(self, sessions: Sessions, client: redis.asyncio.Redis, breaker: Breaker) -> None:
        """Read from ``sessions`` through ``client``."""
        self._sessions = sessions
        self._redis = client
        self._breaker = breaker

    async def read(self, tenant: int, user_id: UUID) -> Profile | None:
        """Return a user of the tenant, or ``None`` if there is none (any more)."""
        key = _key(tenant, user_id)
        kept = await self._breaker.ask(lambda: self._redis.get(key), None)
        if kept is not None:
            return None if kept == _TOMBSTONE else _as_json.validate_json(kept)
        async with self._sessions.begin() as tx:
            user = await find_user(tx, tenant, user_id)
        if user is None:
            return None
        profile = profile_of(user)
        value = _as_json.dump_json(profile)
        await self._breaker.ask(lambda: self._redis.set(key, value, ex=TTL_SECONDS, nx=True), None)
        return profile

    async def bury(self, tenant: int, user_id: UUID) -> None:
        """Say that a user was erased; call it after the commit."""
        await self._breaker.ask(
            lambda: self._redis.set(_key(tenant, user_id), _TOMBSTONE, ex=TTL_SECONDS), None
        )


def _key(tenant: int, user_id: UUID) -> str:
    return f"goodsyard:user:{tenant}:{user_id}"
