"""Who asks: every request under ``/v1`` is some tenant's, by a key or a token that is valid now.

Services show API keys and people show access tokens; neither can be shown as the other. Whose they
are is remembered for a few seconds, so that a request costs no query for it: a key that was
revoked, a session that was ended, a person who was erased or has another role, is known everywhere
when those have passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, params
from fastapi.security import HTTPBearer, SecurityScopes

from commerce.accounts.keys import StoredKey, find_api_key, split_api_key
from commerce.accounts.people import Person, find_person
from commerce.accounts.roles import SCOPES_OF, Role
from commerce.accounts.scopes import ADMIN, covers
from commerce.accounts.tokens import Identity, Session, Tokens
from goodsyard.database import Sessions
from goodsyard.interventions import Actor
from producers import problems
from producers.problems import ProblemError
from producers.remembered import Remembered

REMEMBER_SECONDS = 4.0
"""How long a key or a person is taken at their word: a revoked one works so long at the most."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and what it may do."""

    tenant: int
    caller: str
    """Whose requests are counted together: one key's, or one person's."""
    name: str
    """How the audit log calls it; of a person the id alone, which an erasure leaves."""
    scopes: frozenset[str]
    plan: str
    user_id: UUID | None = None
    """The user, where it is a person."""
    role: Role | None = None
    """The person's."""

    @property
    def actor(self) -> Actor:
        """Who did it, for the audit log."""
        return Actor(self.tenant, self.name)

    @property
    def owner(self) -> UUID | None:
        """The user whose things are all it may see; ``None`` if it may see the whole tenant's."""
        return self.user_id if self.role is Role.CUSTOMER else None

    def owns(self, user_id: UUID) -> bool:
        """Whether it may see and change what is this user's."""
        return self.owner in {None, user_id}

    def require(self, scope: str) -> None:
        """Refuse what takes a scope that it doesn't have.

        Raises:
            ProblemError: 403, naming the scope.
        """
        if not covers(self.scopes, scope):
            raise ProblemError(
                problems.MISSING_SCOPE,
                f"This takes the scope {scope}, of a key or of a person's role.",
                members={"scope": scope},
            )


class KeyRing:
    """Knows whose keys and tokens are shown."""

    def __init__(self, sessions: Sessions, tokens: Tokens) -> None:
        """Look up through ``sessions``."""
        self._sessions = sessions
        self._tokens = tokens
        self._keys = Remembered(self._find_key, REMEMBER_SECONDS)
        self._people = Remembered(self._find_person, REMEMBER_SECONDS)

    async def open(self, authorization: str) -> Principal | None:
        """Return who shows this ``Authorization`` header, or ``None`` if it opens nothing.

        Raises:
            sqlalchemy.exc.DBAPIError: it isn't known yet and can't be looked up.
        """
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        shown = shown.strip()
        parts = split_api_key(shown)
        if parts is not None:
            return await self._open_with_key(*parts)
        session = self._tokens.read(shown)
        return None if session is None else await self._open_with_token(session)

    def forget_key(self, key_id: str) -> None:
        """Look a key up again at its next use: it was just revoked here."""
        self._keys.forget(key_id)

    def forget_person(self, identity: Identity) -> None:
        """Look a person up again at their next request: they were just changed here."""
        self._people.forget(identity)

    async def _open_with_key(self, key_id: str, secret: str) -> Principal | None:
        stored = await self._keys.find(key_id)
        if stored is None or not stored.opens_with(secret):
            return None
        return Principal(stored.tenant, f"key:{stored.id}", stored.name, stored.scopes, stored.plan)

    async def _open_with_token(self, session: Session) -> Principal | None:
        identity = session.identity
        person = await self._people.find(identity)
        if person is not None and person.generation < session.generation:
            # Their older sessions were ended elsewhere, and this one is of after that.
            self._people.forget(identity)
            person = await self._people.find(identity)
        if person is None or person.generation != session.generation:
            return None
        return Principal(
            identity.tenant,
            f"user:{identity.user_id}",
            f"user {identity.user_id}",
            SCOPES_OF[person.role],
            person.plan,
            identity.user_id,
            person.role,
        )

    async def _find_key(self, key_id: str) -> StoredKey | None:
        async with self._sessions.begin() as tx:
            return await find_api_key(tx, key_id)

    async def _find_person(self, identity: Identity) -> Person | None:
        async with self._sessions.begin() as tx:
            return await find_person(tx, identity)


# It only tells OpenAPI how keys and tokens are sent; the gate has looked at them before.
_bearer = HTTPBearer(
    scheme_name="Bearer",
    description="An API key (`gy_live_…`), or an access token of `POST /v1/auth/token`.",
    auto_error=False,
)


async def _allowed(
    request: Request, needed: SecurityScopes, _: Annotated[object, Depends(_bearer)]
) -> Principal:
    principal: Principal = request.state.principal
    for scope in needed.scopes:
        principal.require(scope)
    return principal


def require_scope(*scopes: str) -> params.Security:
    """Return what marks a parameter as the principal, who must have all of ``scopes``."""
    return params.Security(_allowed, scopes=scopes)


require_admin = require_scope(ADMIN)
"""Marks a parameter as the principal, who may do everything in the tenant."""


async def current_user(principal: Annotated[Principal, require_scope()]) -> UUID:
    """Return the user who is signed in.

    Raises:
        ProblemError: 403, it is a service that shows an API key.
    """
    if principal.user_id is None:
        raise ProblemError(problems.NO_PERSON)
    return principal.user_id
