"""Users as they are shown, read through the cache; one who was erased isn't shown from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter

from commerce.accounts.models import User
from commerce.accounts.users import find_user
from goodsyard.cache import CacheService
from goodsyard.database import Sessions

TTL_SECONDS = 60
"""Users hardly ever change: it is how long one is worth Redis's memory."""


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

    def __init__(self, sessions: Sessions, cache: CacheService) -> None:
        """Read from ``sessions`` through ``cache``."""
        self._sessions = sessions
        self._cache = cache

    async def read(self, tenant: int, user_id: UUID) -> Profile | None:
        """Return a user of the tenant, or ``None`` if there is none (any more)."""

        async def compute() -> str | None:
            async with self._sessions.begin() as tx:
                user = await find_user(tx, tenant, user_id)
            return None if user is None else _as_json.dump_json(profile_of(user)).decode()

        kept = await self._cache.read(profile_key(tenant, user_id), TTL_SECONDS, compute)
        return None if kept is None else _as_json.validate_json(kept)


def profile_key(tenant: int, user_id: UUID) -> str:
    """Return where the cache keeps a user: whoever changes one does so ``changing`` it."""
    return f"user:{tenant}:{user_id}"
