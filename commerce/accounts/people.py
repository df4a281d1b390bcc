"""People who sign in: found by name and password, and known by their role as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.roles import Role
from commerce.accounts.tokens import Identity, Session


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom a name means, and what their password must fit."""

    session: Session
    password_hash: str
    role: Role


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has signed in, as they are now."""

    role: Role
    plan: str
    """The tenant's."""
    generation: int
    """Of their access tokens: those of another one are over, or not yet known here."""


class LastAdminError(Exception):
    """The tenant would be left with nobody who is an administrator."""


def _signing_in(condition: str) -> TextClause:
    # Two are as good as none: which of them it is, their tenant's name must say.
    return text(f"""
        SELECT u.id, u.tenant, u.password_hash, u.role, u.token_generation
          FROM commerce.users u
          JOIN commerce.tenant t ON t.id = u.tenant
         WHERE {condition} AND u.password_hash IS NOT NULL
           AND t.name = coalesce(CAST(:tenant_name AS text), t.name)
         LIMIT 2
    """)  # noqa: S608 - what is put in is one of the two below


_BY_EMAIL = _signing_in("lower(u.email) = lower(:name)")
_BY_USERNAME = _signing_in("u.username = :name")

_PERSON = text("""
    SELECT u.role, t.plan, u.token_generation
      FROM commerce.users u
      JOIN commerce.tenant t ON t.id = u.tenant
     WHERE u.tenant = :tenant AND u.id = :id AND u.erased_at IS NULL
""")

# In one order, so that two who demote each other wait and the second is told.
_LOCK_ADMINS = text("""
    SELECT id FROM commerce.users
     WHERE tenant = :tenant AND role = 'admin'
     ORDER BY id
       FOR NO KEY UPDATE
""")

_SET_ROLE = text("""
    UPDATE commerce.users SET role = :role
     WHERE tenant = :tenant AND id = :id AND erased_at IS NULL
    RETURNING id
""")


_PASSWORD_OF = text("""
    SELECT password_hash FROM commerce.users
     WHERE tenant = :tenant AND id = :id AND erased_at IS NULL
""")

# Of two who change it at once, one compared the old password with what is no longer there.
_SET_PASSWORD = text("""
    UPDATE commerce.users
       SET password_hash = :password_hash, token_generation = token_generation + 1
     WHERE tenant = :tenant AND id = :id AND erased_at IS NULL
       AND (CAST(:instead_of AS text) IS NULL OR password_hash = :instead_of)
    RETURNING id
""")

_END_SESSIONS = text("""
    UPDATE commerce.users SET token_generation = token_generation + 1
     WHERE tenant = :tenant AND id = :id AND erased_at IS NULL
    RETURNING id
""")


async def find_credentials(
    tx: AsyncSession, name: str, tenant_name: str | None
) -> Credentials | None:
    """Return whom ``name`` means, if it is exactly one person.

    Args:
        tx: the transaction.
        name: an e-mail address, whatever its case, or else a username.
        tenant_name: the tenant they belong to; ``None`` looks in all.
    """
    statement = _BY_EMAIL if "@" in name else _BY_USERNAME
    found = (await tx.execute(statement, {"name": name, "tenant_name": tenant_name})).all()
    if len(found) != 1:
        return None
    row = found[0]
    session = Session(Identity(row.tenant, row.id), row.token_generation)
    return Credentials(session, row.password_hash, Role(row.role))


async def find_person(tx: AsyncSession, identity: Identity) -> Person | None:
    """Return who signed in as they are now, or ``None`` if they were erased."""
    row = (await tx.execute(_PERSON, _whose(identity))).one_or_none()
    return None if row is None else Person(Role(row.role), row.plan, row.token_generation)


async def password_hash_of(tx: AsyncSession, identity: Identity) -> str | None:
    """Return what somebody's password must fit; ``None`` if they have none or were erased."""
    found: str | None = await tx.scalar(_PASSWORD_OF, _whose(identity))
    return found


async def set_password(
    tx: AsyncSession, identity: Identity, password_hash: str, *, instead_of: str | None = None
) -> bool:
    """Give somebody another password, and end all their sessions.

    Args:
        tx: the transaction.
        identity: whose password.
        password_hash: the new one, hashed.
        instead_of: the hash it replaces, no other; ``None`` replaces any, or the lack of one.

    Returns:
        Whether it was done: there is such a person, and ``instead_of`` was theirs.
    """
    parameters = {"password_hash": password_hash, "instead_of": instead_of}
    return await tx.scalar(_SET_PASSWORD, _whose(identity) | parameters) is not None


async def end_sessions(tx: AsyncSession, identity: Identity) -> bool:
    """Let no access token that somebody was given so far open anything; False: nobody is there."""
    return await tx.scalar(_END_SESSIONS, _whose(identity)) is not None


def _whose(identity: Identity) -> dict[str, object]:
    return {"tenant": identity.tenant, "id": identity.user_id}


async def set_role(tx: AsyncSession, tenant: int, user_id: UUID, role: Role) -> bool:
    """Give a user another role; API processes notice within seconds.

    Returns:
        Whether there is such a user.

    Raises:
        LastAdminError: it is the tenant's only administrator. Nothing was changed.
    """
    if role is not Role.ADMIN:
        await require_another_admin(tx, tenant, user_id)
    whose = {"tenant": tenant, "id": user_id, "role": role.value}
    return await tx.scalar(_SET_ROLE, whose) is not None


async def require_another_admin(tx: AsyncSession, tenant: int, user_id: UUID) -> None:
    """Make sure, until the commit, that the tenant has an administrator besides ``user_id``.

    A tenant that has none among its people, and is run by keys alone, loses nothing.

    Raises:
        LastAdminError: the user is the only one.
    """
    admins = (await tx.scalars(_LOCK_ADMINS, {"tenant": tenant})).all()
    if list(admins) == [user_id]:
        raise LastAdminError
