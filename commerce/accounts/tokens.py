"""Access tokens: JWTs of our own that say who signed in and until when, and not what they may do.

What a person may do is read from their row at each use: a token outlives neither them nor a change
of their role. It names a generation, of which their row has the latest: with the next one all that
were issued before are over, and nobody keeps a list of them. They are signed as RFC 8725 advises:
one algorithm, pinned, under a key of this purpose alone, for one audience.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
from pydantic import SecretStr

from goodsyard.job import new_id

LIFETIME_SECONDS = 3_600
"""How long a token works, if nobody ends it earlier: a working session."""

_ALGORITHM = "HS256"
_ISSUER = "goodsyard"
_AUDIENCE = "goodsyard api"
_PURPOSE = b"goodsyard access token 1"
_REQUIRED = ("iss", "aud", "sub", "exp", "iat", "jti", "tenant", "generation")
_MAX_LENGTH = 1_000  # of a token somebody shows us; ours have some 330 characters


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in."""

    tenant: int
    user_id: UUID


@dataclass(frozen=True, slots=True)
class Session:
    """What a token says: who signed in, and before which end of all their sessions."""

    identity: Identity
    generation: int


class Tokens:
    """Makes and reads access tokens."""

    def __init__(self, secret_key: SecretStr) -> None:
        """Sign with a key derived from ``SECRET_KEY``, so that no other use of it makes tokens."""
        secret = secret_key.get_secret_value().encode()
        self._key = hmac.digest(secret, _PURPOSE, hashlib.sha256)

    def issue(self, session: Session) -> str:
        """Return a token for ``session``, good for ``LIFETIME_SECONDS`` from now."""
        now = datetime.now(UTC)
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": str(session.identity.user_id),
            "tenant": session.identity.tenant,
            "generation": session.generation,
            "iat": now,
            "exp": now + timedelta(seconds=LIFETIME_SECONDS),
            "jti": new_id().hex,
        }
        return jwt.encode(claims, self._key, _ALGORITHM)

    def read(self, token: str) -> Session | None:
        """Return what ``token`` says, or ``None`` unless it is one of ours and good right now."""
        if len(token) > _MAX_LENGTH:
            return None
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                # A process whose clock is ahead of ours may have made it: iat is for people.
                options={"require": list(_REQUIRED), "strict_aud": True, "verify_iat": False},
            )
            tenant, generation = claims["tenant"], claims["generation"]
            identity = Identity(tenant, UUID(claims["sub"]))
        except (jwt.InvalidTokenError, ValueError):
            return None
        are_numbers = type(tenant) is int and type(generation) is int  # True is none
        return Session(identity, generation) if are_numbers else None
