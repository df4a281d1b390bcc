"""Idempotency keys: of equal requests, however many come at once, exactly one creates anything.

The key row is inserted first, in the transaction that creates what was asked for; whoever loses
that insert finds the winner's answer. Modelled on the IETF draft "The Idempotency-Key HTTP Header
Field" and on B. Leach, "Implementing Stripe-like Idempotency Keys in Postgres".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import orjson
from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

LOCK_NOT_AVAILABLE = "55P03"
"""SQLSTATE of a ``lock_timeout``: the request with the same key is still being carried out."""


class KeyInFlightError(Exception):
    """A request with the same key is still being carried out: ask again in a moment."""


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A request's wish to be the one: its key, what it asks for (hashed), what it would create."""

    key: str
    hash: bytes
    resource: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Whoever has the key: ``won`` is us; else an earlier request and what it created."""

    won: bool
    same_request: bool
    resource: Mapping[str, JsonValue]


def request_hash(method: str, path: str, body: JsonValue) -> bytes:
    """Return the SHA-256 by which two requests are the same: method, path and the body's values.

    The order of keys and white space don't count; every value does.
    """
    canonical = orjson.dumps([method, path, body], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).digest()


PATIENCE_MS = 250
"""How long a request waits for an equal one before it is told to come again."""


def claiming(only: str = "true") -> str:
    """Return the statement that takes the free ones of ``:keys`` and returns them.

    Its parameters are ``claim_columns``. It sets the transaction's ``lock_timeout``, in the same
    round trip: nobody waits long for a request that is still being carried out.

    Args:
        only: which of the claims ``c(key, hash, resource)``, as SQL.
    """
    # Sorted by key: two callers with keys in common then queue for each other and never in a circle
    # (unsorted, six clients deadlocked within seconds).
    return f"""
        WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', :patience, true))
        INSERT INTO goodsyard.request_key (tenant, key, hash, resource)
        SELECT :tenant, c.key, c.hash, c.resource
          FROM patience,
               unnest(CAST(:keys AS text[]), CAST(:hashes AS bytea[]), CAST(:resources AS jsonb[]))
            AS c(key, hash, resource)
         WHERE {only}
         ORDER BY c.key
        ON CONFLICT (tenant, key) DO NOTHING
        RETURNING key
    """  # noqa: S608 - no value gets in here, only SQL of our own


_CLAIM = text(claiming())

_HOLDERS = text("""
    SELECT key, hash, resource FROM goodsyard.request_key
     WHERE tenant = :tenant AND key = ANY(CAST(:keys AS text[]))
""")

_AMEND = text("""
    UPDATE goodsyard.request_key SET resource = CAST(:resource AS jsonb)
     WHERE tenant = :tenant AND key = :key
""")


def claim_columns(
    tenant: int, claims: Sequence[KeyClaim], patience_ms: int = PATIENCE_MS
) -> dict[str, object]:
    """Return the parameters of ``claiming``."""
    return {
        "tenant": tenant,
        "patience": f"{patience_ms}ms",
        "keys": [c.key for c in claims],
        "hashes": [c.hash for c in claims],
        "resources": [orjson.dumps(c.resource).decode() for c in claims],
    }


@contextmanager
def in_flight() -> Iterator[None]:
    """Tell of a lock that wasn't to be had in time as ``KeyInFlightError``."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            raise KeyInFlightError from error
        raise


async def claim(tx: AsyncSession, tenant: int, claims: Sequence[KeyClaim]) -> dict[str, KeyHolder]:
    """Take the keys that are free, in one statement, and say who has the others.

    Args:
        tx: the transaction that will create what is asked for; it must come to its commit soon.
        tenant: the keys' scope.
        claims: distinct keys.

    Raises:
        KeyInFlightError: a request with one of the keys hasn't committed within ``PATIENCE_MS``.
            The transaction is of no further use.
    """
    with in_flight():
        won = set(await tx.scalars(_CLAIM, claim_columns(tenant, claims)))
    holders = {
        c.key: KeyHolder(won=True, same_request=True, resource=c.resource)
        for c in claims
        if c.key in won
    }
    return holders | await holders_of(tx, tenant, [c for c in claims if c.key not in won])


async def holders_of(
    tx: AsyncSession, tenant: int, claims: Sequence[KeyClaim]
) -> dict[str, KeyHolder]:
    """Say who has the keys that somebody has.

    A statement of its own, after the one that lost them: the winner may have committed while that
    one waited.
    """
    if not claims:
        return {}
    hashes = {c.key: c.hash for c in claims}
    rows = await tx.execute(_HOLDERS, {"tenant": tenant, "keys": list(hashes)})
    return {
        key: KeyHolder(won=False, same_request=bytes(held_hash) == hashes[key], resource=resource)
        for key, held_hash, resource in rows
    }


async def amend(tx: AsyncSession, tenant: int, key: str, resource: Mapping[str, JsonValue]) -> None:
    """Say, in the transaction that won the key, that something else answers the request."""
    parameters = {"tenant": tenant, "key": key, "resource": orjson.dumps(resource).decode()}
    await tx.execute(_AMEND, parameters)
