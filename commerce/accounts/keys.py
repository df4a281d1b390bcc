"""API keys: shown once, stored as a hash, of no use from the moment they are revoked.

A key reads ``gy_live_<id>_<secret>``. The secret is 256 random bits, so one round of SHA-256 keeps
it: there is no dictionary to try (a slow hash protects passwords, which people choose).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.scopes import check_scopes

_PREFIX = "gy_live_"
_SECRET_BYTES = 32
_MAX_LENGTH = 200  # of a key somebody shows us; ours have 68 characters


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is kept of a key that isn't revoked."""

    id: str
    tenant: int
    name: str
    secret_hash: bytes
    scopes: frozenset[str]
    plan: str
    """What it may ask for: the tenant's plan, or ``unlimited``."""
    expires_at: datetime | None

    def opens_with(self, secret: str) -> bool:
        """Whether ``secret`` is this key's and it hasn't expired; in a time that tells nothing."""
        fits = hmac.compare_digest(self.secret_hash, _hash(secret))
        return fits and (self.expires_at is None or datetime.now(UTC) < self.expires_at)


@dataclass(frozen=True, slots=True)
class KeyNote:
    """What may be shown of a key."""

    id: str
    name: str
    scopes: list[str]
    expires_at: datetime | None


_TENANT = text("""
    WITH made AS (
        INSERT INTO commerce.tenant (name) VALUES (:name) ON CONFLICT (name) DO NOTHING
        RETURNING id)
    SELECT id FROM made UNION ALL SELECT id FROM commerce.tenant WHERE name = :name LIMIT 1
""")

_ISSUE = text("""
    INSERT INTO commerce.api_key (id, tenant, name, secret_hash, scopes, unlimited, expires_at)
    VALUES (:id, :tenant, :name, :secret_hash, :scopes, :unlimited, :expires_at)
""")

_REVOKE = text("""
    UPDATE commerce.api_key SET revoked_at = now()
     WHERE id = :id AND revoked_at IS NULL
       AND tenant = coalesce(CAST(:tenant AS int), tenant)
    RETURNING id
""")

_LIST = text("""
    SELECT id, name, scopes, expires_at FROM commerce.api_key
     WHERE tenant = :tenant AND revoked_at IS NULL
     ORDER BY created_at, id
""")

_TENANT_NAME = text("SELECT name FROM commerce.tenant WHERE id = :id")

_FIND = text("""
    SELECT k.id, k.tenant, k.name, k.secret_hash, k.scopes, k.expires_at,
           CASE WHEN k.unlimited THEN 'unlimited' ELSE t.plan END AS plan
      FROM commerce.api_key k
      JOIN commerce.tenant t ON t.id = k.tenant
     WHERE k.id = :id AND k.revoked_at IS NULL
""")


async def create_api_key(
    tx: AsyncSession,
    tenant_name: str,
    name: str,
    scopes: Sequence[str],
    *,
    unlimited: bool = False,
) -> str:
    """Make a key for the tenant called ``tenant_name``, who is created if new.

    Args:
        tx: the transaction; the caller commits.
        tenant_name: whose key it is.
        name: what the key is called in the audit log.
        scopes: what it may do, see ``commerce.accounts.scopes``.
        unlimited: whether the API's rate limit spares it.

    Returns:
        The whole key; only its hash is stored, so this is the one time it can be read.

    Raises:
        UnknownScopeError: a scope doesn't exist.
    """
    tenant = await ensure_tenant(tx, tenant_name)
    key_id = new_key_id()
    return await issue_api_key(tx, key_id, tenant, name, scopes, unlimited=unlimited)


async def ensure_tenant(tx: AsyncSession, name: str) -> int:
    """Return the number of the tenant called ``name``, who is created if new."""
    while True:
        # Empty when another transaction is just creating the tenant: then it has by now.
        tenant: int | None = await tx.scalar(_TENANT, {"name": name})
        if tenant is not None:
            return tenant


async def tenant_name(tx: AsyncSession, tenant: int) -> str:
    """Return what a tenant is called."""
    name: str = (await tx.execute(_TENANT_NAME, {"id": tenant})).scalar_one()
    return name


def new_key_id() -> str:
    """Return the public part of a new key."""
    return secrets.token_hex(8)


async def issue_api_key(  # noqa: PLR0913 - a column each
    tx: AsyncSession,
    key_id: str,
    tenant: int,
    name: str,
    scopes: Sequence[str],
    *,
    unlimited: bool = False,
    expires_at: datetime | None = None,
) -> str:
    """Make the key ``key_id`` for a tenant that exists; returns the whole key, this once.

    Raises:
        UnknownScopeError: a scope doesn't exist.
    """
    check_scopes(scopes)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    await tx.execute(
        _ISSUE,
        {
            "id": key_id,
            "tenant": tenant,
            "name": name,
            "secret_hash": _hash(secret),
            "scopes": sorted(set(scopes)),
            "unlimited": unlimited,
            "expires_at": expires_at,
        },
    )
    return f"{_PREFIX}{key_id}_{secret}"


async def revoke_api_key(tx: AsyncSession, key_id: str, *, tenant: int | None = None) -> bool:
    """Make a key useless; API processes notice within seconds.

    Args:
        tx: the transaction; the caller commits.
        key_id: the key's public part.
        tenant: whose key it must be; ``None`` for an operator, who may revoke any.

    Returns:
        Whether there was such a key, not yet revoked.
    """
    return await tx.scalar(_REVOKE, {"id": key_id, "tenant": tenant}) is not None


async def list_api_keys(tx: AsyncSession, tenant: int) -> list[KeyNote]:
    """Return what may be shown of a tenant's keys that aren't revoked, the oldest first."""
    return [KeyNote(*row) for row in await tx.execute(_LIST, {"tenant": tenant})]


async def find_api_key(tx: AsyncSession, key_id: str) -> StoredKey | None:
    """Return what is kept of a key, or ``None`` if there is none or it is revoked."""
    row = (await tx.execute(_FIND, {"id": key_id})).one_or_none()
    if row is None:
        return None
    return StoredKey(
        row.id,
        row.tenant,
        row.name,
        bytes(row.secret_hash),
        frozenset(row.scopes),
        row.plan,
        row.expires_at,
    )


def split_api_key(key: str) -> tuple[str, str] | None:
    """Return the id and the secret of a key, or ``None`` if it has not the form of one."""
    if not key.startswith(_PREFIX) or len(key) > _MAX_LENGTH:
        return None
    key_id, _, secret = key.removeprefix(_PREFIX).partition("_")
    return (key_id, secret) if key_id.isalnum() and key_id.isascii() and secret else None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
