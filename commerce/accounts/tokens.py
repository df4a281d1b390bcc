"""Access tokens: JWTs of our own that say who signed in and until when, and not what they may do.

What a person may do is read from their row at each use: a token outlives neither them nor a change
of their role. They are signed as RFC 8725 advises: one algorithm, pinned, under a key of this
purpose alone, for one audience.
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
"""How long a token works: a working session, since there is no other way to end a stolen one than
to erase its person."""

_ALGORITHM = "HS256"
_ISSUER = "goodsyard"
_AUDIENCE = "goodsyard api"
_PURPOSE = b"goodsyard access token 1"
_REQUIRED = ("iss", "aud", "sub", "exp", "iat", "jti", "tenant")
_MAX_LENGTH = 1_000  # of a token somebody shows us; ours have some 330 characters


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in."""

    tenant: int
    user_id: UUID


class Tokens:
    """Makes and reads access tokens."""

    def __init__(self, secret_key: SecretStr) -> None:
        """Sign with a key derived from ``SECRET_KEY``, so that no other use of it makes tokens."""
        secret = secret_key.get_secret_value().encode()
        self._key = hmac.digest(secret, _PURPOSE, hashlib.sha256)

    def issue(self, identity: Identity) -> str:
        """Return a token for ``identity``, good for ``LIFETIME_SECONDS`` from now."""
        now = datetime.now(UTC)
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": str(identity.user_id),
            "tenant": identity.tenant,
            "iat": now,
            "exp": now + timedelta(seconds=LIFETIME_SECONDS),
            "jti": new_id().hex,
        }
        return jwt.encode(claims, self._key, _ALGORITHM)

    def read(self, token: str) -> Identity | None:
        """Return who signed in, or ``None`` unless it is a token of ours that is good right now."""
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
            tenant, user_id = claims["tenant"], UUID(claims["sub"])
        except (jwt.InvalidTokenError, ValueError):
            return None
        return Identity(tenant, user_id) if type(tenant) is int else None
