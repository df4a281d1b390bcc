"""Users: an e-mail address and a name each once a tenant, and gone when they ask to be.

A user who was erased is as good as absent everywhere but in the rows that must be kept.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.models import User
from commerce.accounts.people import require_another_admin
from commerce.repository import SqlRepository

# KEY SHARE waits for an erasure that is under way and then reads its outcome; it holds up no reader
# and no other order. Sorted, so that two bulks never wait for each other in a circle.
BUYERS = """
    SELECT id FROM commerce.users
     WHERE tenant = :tenant AND id = ANY(CAST(:users AS uuid[])) AND erased_at IS NULL
     ORDER BY id
       FOR KEY SHARE
"""
"""Returns those of ``:users`` who may buy, and keeps them from being erased until the commit."""

_BY_EMAIL = text("""
    SELECT id FROM commerce.users WHERE tenant = :tenant AND lower(email) = lower(:value)
""")

_BY_USERNAME = text("""
    SELECT id FROM commerce.users WHERE tenant = :tenant AND username = :value
""")

_LOCK = text("""
    SELECT email FROM commerce.users
     WHERE tenant = :tenant AND id = :id AND erased_at IS NULL
       FOR UPDATE
""")

_HAS_OPEN_ORDERS = text("""
    SELECT EXISTS (SELECT FROM commerce.orders
                    WHERE tenant = :tenant AND user_id = :id
                      AND status IN ('pending', 'reserved'))
""")

_ERASE = text("""
    UPDATE commerce.users
       SET email = NULL, username = NULL, full_name = NULL, password_hash = NULL,
           role = 'customer', token_generation = token_generation + 1, erased_at = now()
     WHERE tenant = :tenant AND id = :id
""")


# Free text, in which anything may stand; the rest belongs to the books. Locked in the order that
# everybody keeps to.
_FORGET_METADATA = text("""
    WITH theirs AS MATERIALIZED (
        SELECT id FROM commerce.orders
         WHERE tenant = :tenant AND user_id = :id AND metadata <> '{}'
         ORDER BY id FOR NO KEY UPDATE)
    UPDATE commerce.orders SET metadata = '{}' WHERE id = ANY(ARRAY(SELECT id FROM theirs))
""")

# An order's payments have no description.
_FORGET_DESCRIPTIONS = text("""
    WITH theirs AS MATERIALIZED (
        SELECT id FROM commerce.payment
         WHERE tenant = :tenant AND user_id = :id AND order_id IS NULL AND description IS NOT NULL
         ORDER BY id FOR NO KEY UPDATE)
    UPDATE commerce.payment SET description = NULL WHERE id = ANY(ARRAY(SELECT id FROM theirs))
""")


class TakenError(Exception):
    """Another user of the tenant has this e-mail address or username."""

    def __init__(self, field: str) -> None:
        super().__init__(f"another user has this {field}")
        self.field = field


class OpenOrdersError(Exception):
    """The user has orders that are neither done nor off: they need the address for the receipt."""


async def add_user(tx: AsyncSession, user: User) -> None:
    """Insert a user.

    Raises:
        TakenError: the e-mail address (whatever its case) or the username is taken. The transaction
            is over; ``holder_of`` finds out in a new one who has it.
    """
    try:
        await SqlRepository(tx, User, user.tenant, User.id).add(user)
    except IntegrityError as error:
        match getattr(getattr(error.orig, "diag", None), "constraint_name", None):
            case "users_email":
                raise TakenError("email") from error
            case "users_username":
                raise TakenError("username") from error
            case _:
                raise


async def holder_of(tx: AsyncSession, tenant: int, field: str, value: str) -> UUID | None:
    """Return the user who has this ``email`` (whatever its case) or ``username``."""
    statement = {"email": _BY_EMAIL, "username": _BY_USERNAME}[field]
    user: UUID | None = await tx.scalar(statement, {"tenant": tenant, "value": value})
    return user


async def find_user(tx: AsyncSession, tenant: int, user_id: UUID) -> User | None:
    """Return a user, unless erased."""
    user = await SqlRepository(tx, User, tenant, User.id).get(user_id)
    return None if user is None or user.erased_at is not None else user


async def erase_user(tx: AsyncSession, tenant: int, user_id: UUID) -> str | None:
    """Forget everything personal about a user, and keep rows and amounts for the ledger.

    Returns:
        The address they had, so that it can be forgotten elsewhere too; ``None`` if there was no
        such user.

    Raises:
        OpenOrdersError: the user has orders under way; nothing was erased.
        LastAdminError: the user is the tenant's only administrator; nothing was erased.
    """
    whose = {"tenant": tenant, "id": user_id}
    await require_another_admin(tx, tenant, user_id)
    address: str | None = await tx.scalar(_LOCK, whose)
    if address is None:
        return None
    # A statement of its own: it sees the orders of those who had the lock before us.
    if await tx.scalar(_HAS_OPEN_ORDERS, whose):
        raise OpenOrdersError
    for statement in (_ERASE, _FORGET_METADATA, _FORGET_DESCRIPTIONS):
        await tx.execute(statement, whose)
    return address
