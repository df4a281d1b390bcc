"""What ``goodsyard up`` asks of the database itself: an administrator's key, and who works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.keys import create_api_key, find_api_key, revoke_api_key, split_api_key
from commerce.accounts.plans import PLANS, find_tenant, set_plan
from commerce.accounts.scopes import ADMIN, UnknownScopeError
from goodsyard import shares
from goodsyard.database import open_engine, session_factory
from ops.errors import CommandError, DatabaseSilentError, one_line

_TENANT = "default"

_NOW = text("SELECT now()")

_NODES_SINCE = text("SELECT DISTINCT node FROM goodsyard.worker WHERE started_at > :moment")


async def admin_key(database_url: str, kept: str | None) -> str:
    """Return an unlimited administrator's key: the one kept from an earlier run, or a new one.

    A person's scripts go on working from one run to the next; a new one is made only where the
    database doesn't know the old one, because it is another database or the key was revoked.
    """
    async with transaction(database_url) as tx:
        if kept and await _is_good(tx, kept):
            return kept
        return await create_api_key(tx, _TENANT, "goodsyard up", [ADMIN], unlimited=True)


async def create_key(
    database_url: str, tenant: str, name: str, scopes: Sequence[str], *, unlimited: bool
) -> str:
    """Make an API key and return it, this once.

    Raises:
        CommandError: a scope doesn't exist, or the database doesn't answer. Nothing was made.
    """
    async with transaction(database_url) as tx:
        try:
            return await create_api_key(tx, tenant, name, scopes, unlimited=unlimited)
        except UnknownScopeError as error:
            raise CommandError(f"{error}.") from error


async def revoke_key(database_url: str, key: str) -> str:
    """Revoke an API key, given whole or by its id, and return its id.

    Raises:
        CommandError: there is none, or the database doesn't answer.
    """
    parts = split_api_key(key)
    key_id = parts[0] if parts else key
    async with transaction(database_url) as tx:
        if not await revoke_api_key(tx, key_id):
            raise CommandError(f"There is no key {key_id}, or it was revoked before.")
    return key_id


async def put_on_plan(database_url: str, tenant: str, plan: str) -> None:
    """Put a tenant on another plan.

    Raises:
        CommandError: there is no such plan or tenant, or the database doesn't answer.
    """
    if plan not in PLANS:
        raise CommandError(f"There is no plan {plan}: there are {', '.join(PLANS)}.")
    async with transaction(database_url) as tx:
        if not await set_plan(tx, tenant, plan):
            raise CommandError(f"There is no tenant {tenant}; its first API key makes it.")


async def give_share(database_url: str, tenant: str, weight: float) -> None:
    """Give a tenant so many turns at the queues for each of another's.

    Raises:
        CommandError: there is no such tenant or weight, or the database doesn't answer.
    """
    if not shares.LEAST <= weight <= shares.MOST:
        raise CommandError(f"A share of {weight:g}? It is {shares.LEAST:g} to {shares.MOST:g}.")
    async with transaction(database_url) as tx:
        number = await find_tenant(tx, tenant)
        if number is None:
            raise CommandError(f"There is no tenant {tenant}; its first API key makes it.")
        await shares.set_share(tx, number, weight)


async def database_time(database_url: str) -> datetime:
    """Return the time by the database's clock."""
    async with transaction(database_url) as tx:
        now: datetime = (await tx.execute(_NOW)).scalar_one()
        return now


async def nodes_since(database_url: str, moment: datetime) -> set[str]:
    """Return the worker nodes that have come up since ``moment``, without their host's name."""
    async with transaction(database_url) as tx:
        nodes = await tx.scalars(_NODES_SINCE, {"moment": moment})
        return {node.partition("@")[0] for node in nodes}


@asynccontextmanager
async def transaction(database_url: str) -> AsyncIterator[AsyncSession]:
    """Give one transaction on a connection of its own, and commit it.

    Raises:
        CommandError: the database doesn't answer, or lacks our tables.
    """
    engine = open_engine(database_url, pool_size=1, application_name="goodsyard command")
    try:
        async with session_factory(engine).begin() as tx:
            yield tx
    except OperationalError as error:
        raise DatabaseSilentError(error.orig) from error
    except ProgrammingError as error:
        raise CommandError(
            f"The database lacks what this version needs: {one_line(error.orig)} "
            "Nothing was changed. Run `goodsyard migrate` first."
        ) from error
    finally:
        await engine.dispose()


async def _is_good(tx: AsyncSession, key: str) -> bool:
    parts = split_api_key(key)
    if parts is None:
        return False
    key_id, secret = parts
    stored = await find_api_key(tx, key_id)
    return stored is not None and stored.opens_with(secret)
