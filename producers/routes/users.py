"""``/v1/users``: who buys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, EmailStr, Field, StringConstraints
from starlette.responses import Response

from commerce.accounts.models import User
from commerce.accounts.people import LastAdminError, find_person, set_role
from commerce.accounts.profiles import Profile, profile_key, profile_of
from commerce.accounts.roles import Role
from commerce.accounts.tokens import Identity
from commerce.accounts.users import (
    OpenOrdersError,
    TakenError,
    add_user,
    erase_user,
    find_user,
    holder_of,
)
from commerce.orders.top_customers import top_customers_key
from goodsyard.interventions import record
from goodsyard.job import new_id
from producers import problems
from producers.answers import JsonAnswer, no_content
from producers.authentication import Principal, current_user, require_admin, require_scope
from producers.bodies import JsonRoute
from producers.idempotency import AcceptedKey, claim, replayed
from producers.order_reads import OrderQuery, page_of_orders
from producers.order_shapes import Document, OrderPage
from producers.pagination import PageQuery
from producers.problems import ProblemError, not_found
from producers.services import Services, Use
from tasks.erasure import MailUnderWayError, forget_mails

router = APIRouter(prefix="/v1/users", tags=["users"], route_class=JsonRoute)

Writer = Annotated[Principal, require_scope("users:write")]
Reader = Annotated[Principal, require_scope("users:read")]
OrdersReader = Annotated[Principal, require_scope("orders:read")]
Admin = Annotated[Principal, require_admin]

TAKEN = {"email": problems.EMAIL_TAKEN, "username": problems.USERNAME_TAKEN}


class NewUser(BaseModel):
    """Somebody new."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Annotated[EmailStr, Field(max_length=254)]
    username: Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,64}$")]
    full_name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")] | None = None


class UserIn(NewUser):
    """Somebody new, who may want to sign in."""

    password: Annotated[str, StringConstraints(min_length=8, max_length=256)] | None = Field(
        default=None, description="For people who sign in; kept as an Argon2id hash."
    )


class UserOut(BaseModel):
    """A user."""

    id: UUID
    href: str
    email: str
    username: str
    full_name: str | None
    created_at: datetime


def user_href(user_id: UUID) -> str:
    """Return the path of a user."""
    return f"/v1/users/{user_id}"


def user_document(profile: Profile) -> Document:
    """Return a user as the API shows it."""
    return {
        "id": profile.id,
        "href": user_href(profile.id),
        "email": profile.email,
        "username": profile.username,
        "full_name": profile.full_name,
        "created_at": profile.created_at,
    }


@router.post(
    "",
    status_code=201,
    response_model=UserOut,
    responses=problems.refusals(problems.EMAIL_TAKEN, problems.USERNAME_TAKEN, problems.NOT_FOUND),
)
async def add(body: UserIn, key: AcceptedKey, principal: Writer, use: Use) -> Response:
    """Add a user. E-mail address (whatever its case) and username are unique in the tenant."""
    password = body.password
    user = User(
        id=new_id(),
        tenant=principal.tenant,
        email=body.email,
        username=body.username,
        full_name=body.full_name,
        password_hash=None if password is None else await use.passwords.hash(password),
    )
    try:
        async with use.sessions.begin() as tx:
            holder = await claim(tx, principal.tenant, key, {"user": str(user.id)})
            if holder.won:
                await add_user(tx, user)
                found: User | None = user
            else:
                found = await find_user(tx, principal.tenant, UUID(str(holder.resource["user"])))
    except TakenError as error:
        raise await _taken(use, principal.tenant, body, error) from error
    if found is None:
        raise not_found("user any more: it was created by this request and then deleted")
    document = user_document(profile_of(found))
    return JsonAnswer(document, 201, {"Location": document["href"], **replayed(holder)})


async def _taken(use: Services, tenant: int, body: UserIn, error: TakenError) -> ProblemError:
    async with use.sessions.begin() as tx:
        other = await holder_of(tx, tenant, error.field, getattr(body, error.field))
    headers = {} if other is None else {"Location": user_href(other)}
    return ProblemError(
        TAKEN[error.field],
        f"Another user has this {error.field}; nothing was added.",
        headers=headers,
    )


@router.get("/me", response_model=UserOut, responses=problems.refusals(problems.NO_PERSON))
async def read_me(
    user_id: Annotated[UUID, Depends(current_user)], principal: Reader, use: Use
) -> Response:
    """Read who is signed in."""
    return await read(user_id, principal, use)


@router.get("/{user_id:uuid}", response_model=UserOut)
async def read(user_id: UUID, principal: Reader, use: Use) -> Response:
    """Read a user; a customer reads nobody else."""
    return JsonAnswer(user_document(await _seen(use, principal, user_id)))


async def _seen(use: Services, principal: Principal, user_id: UUID) -> Profile:
    own = principal.owns(user_id)
    profile = await use.profiles.read(principal.tenant, user_id) if own else None
    if profile is None:
        raise not_found(f"user {user_id}")
    return profile


class RoleIn(BaseModel):
    """What somebody who signs in is to be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role


class RoleOut(BaseModel):
    """What somebody who signs in is."""

    user_id: UUID
    role: Role


@router.get("/{user_id:uuid}/role", response_model=RoleOut)
async def read_role(user_id: UUID, principal: Admin, use: Use) -> Response:
    """Read a user's role."""
    async with use.sessions.begin() as tx:
        person = await find_person(tx, Identity(principal.tenant, user_id))
    if person is None:
        raise not_found(f"user {user_id}")
    return JsonAnswer({"user_id": user_id, "role": person.role})


@router.put(
    "/{user_id:uuid}/role",
    response_model=RoleOut,
    responses=problems.refusals(problems.LAST_ADMIN),
)
async def change_role(user_id: UUID, body: RoleIn, principal: Admin, use: Use) -> Response:
    """Give a user another role: `customer`, `support` or `admin`; it holds within five seconds.

    A customer sees and changes what is their own. The tenant's last admin stays one.
    """
    try:
        async with use.sessions.begin() as tx:
            found = await set_role(tx, principal.tenant, user_id, body.role)
            if found:
                target = [str(user_id)]
                await record(tx, principal.actor, "user.role", target, {"role": body.role.value})
    except LastAdminError as error:
        raise ProblemError(problems.LAST_ADMIN) from error
    if not found:
        raise not_found(f"user {user_id}")
    use.keys.forget_person(Identity(principal.tenant, user_id))
    return JsonAnswer({"user_id": user_id, "role": body.role})


@router.delete(
    "/{user_id:uuid}",
    status_code=204,
    responses=problems.refusals(problems.OPEN_ORDERS, problems.MAIL_UNDER_WAY, problems.LAST_ADMIN),
)
async def erase(user_id: UUID, principal: Admin, use: Use) -> Response:
    """Erase everything personal about a user; the orders and the ledger keep a bare number.

    Orders lose their `metadata` and payments their `description`. Mails that wait for them are
    called off, and those that were sent lose address and content.
    """
    shown = profile_key(principal.tenant, user_id), top_customers_key(principal.tenant)
    try:
        async with use.cache.changing(*shown), use.sessions.begin() as tx:
            address = await erase_user(tx, principal.tenant, user_id)
            if address is not None:
                await forget_mails(tx, principal.tenant, address)
                await record(tx, principal.actor, "user.erase", [str(user_id)])
    except OpenOrdersError as error:
        raise ProblemError(problems.OPEN_ORDERS) from error
    except LastAdminError as error:
        raise ProblemError(problems.LAST_ADMIN) from error
    except MailUnderWayError as error:
        raise ProblemError(problems.MAIL_UNDER_WAY, headers={"Retry-After": "2"}) from error
    if address is None:
        raise not_found(f"user {user_id}")
    use.keys.forget_person(Identity(principal.tenant, user_id))
    return no_content()


@router.get("/{user_id:uuid}/orders", response_model=OrderPage)
async def list_orders_of(
    user_id: UUID, query: Annotated[PageQuery, Query()], principal: OrdersReader, use: Use
) -> Response:
    """List a user's orders with their lines, newest first."""
    await _seen(use, principal, user_id)
    of_user = OrderQuery(user_id=user_id, cursor=query.cursor, limit=query.limit)
    async with use.sessions.begin() as tx:
        return JsonAnswer(await page_of_orders(tx, principal.tenant, of_user))
