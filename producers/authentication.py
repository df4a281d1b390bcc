"""Who asks: every request under ``/v1`` is some tenant's, by an API key that is valid right now.

A key that was found is remembered for a few seconds, so that a request costs no query for it; a
revoked one is refused when those have passed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, params
from fastapi.security import HTTPBearer, SecurityScopes

from commerce.accounts.keys import StoredKey, find_api_key, split_api_key
from commerce.accounts.scopes import covers
from goodsyard.database import Sessions
from goodsyard.interventions import Actor
from producers import problems
from producers.problems import ProblemError

REMEMBER_SECONDS = 4.0
"""How long a key is taken at its word: a revoked one works for that long at the most."""

_MOST_REMEMBERED = 10_000  # a few megabytes; ids that don't exist count too


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and what it may do."""

    tenant: int
    key_id: str
    name: str
    scopes: frozenset[str]
    unlimited: bool

    @property
    def actor(self) -> Actor:
        """How the audit log calls it."""
        return Actor(self.tenant, self.name)

    def require(self, scope: str) -> None:
        """Refuse what takes a scope that the key doesn't have.

        Raises:
            ProblemError: 403, naming the scope.
        """
        if not covers(self.scopes, scope):
            raise ProblemError(
                problems.MISSING_SCOPE,
                f"This takes a key with the scope {scope}.",
                members={"scope": scope},
            )


class KeyRing:
    """Looks keys up, each at most once in a few seconds, however many requests show it."""

    def __init__(self, sessions: Sessions) -> None:
        """Look up through ``sessions``."""
        self._sessions = sessions
        self._found: dict[str, tuple[float, asyncio.Task[StoredKey | None]]] = {}

    async def open(self, authorization: str) -> Principal | None:
        """Return who shows this ``Authorization`` header, or ``None`` if its key opens nothing."""
        scheme, _, key = authorization.partition(" ")
        parts = split_api_key(key.strip()) if scheme.lower() == "bearer" else None
        if parts is None:
            return None
        key_id, secret = parts
        stored = await self._find(key_id)
        if stored is None or not stored.opens_with(secret):
            return None
        return Principal(stored.tenant, stored.id, stored.name, stored.scopes, stored.unlimited)

    def forget(self, key_id: str) -> None:
        """Look the key up again at its next use: it was just revoked here."""
        self._found.pop(key_id, None)

    async def _find(self, key_id: str) -> StoredKey | None:
        now = asyncio.get_running_loop().time()
        good_until, lookup = self._found.get(key_id, (0.0, None))
        if lookup is None or now >= good_until:
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            lookup = asyncio.create_task(self._look_up(key_id))
            self._found[key_id] = (now + REMEMBER_SECONDS, lookup)
        try:
            # Shielded: who asked first may hang up, and others wait for the same answer.
            return await asyncio.shield(lookup)
        except Exception:
            self._found.pop(key_id, None)
            raise

    async def _look_up(self, key_id: str) -> StoredKey | None:
        async with self._sessions.begin() as tx:
            return await find_api_key(tx, key_id)


# It only tells OpenAPI how keys are sent; the gate has looked at the key before.
_bearer = HTTPBearer(scheme_name="ApiKey", bearerFormat="gy_live_<id>_<secret>", auto_error=False)


async def _allowed(
    request: Request, needed: SecurityScopes, _: Annotated[object, Depends(_bearer)]
) -> Principal:
    principal: Principal = request.state.principal
    for scope in needed.scopes:
        principal.require(scope)
    return principal


def needs(*scopes: str) -> params.Security:
    """Return what marks a parameter as the principal, who must have all of ``scopes``."""
    return params.Security(_allowed, scopes=scopes)
