"""Another password, and the end of all sessions: by the people themselves, and by administrators.

Either leaves no access token of before that opens anything: at once in this process, and within
five seconds in the others.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from commerce.accounts.people import end_sessions, password_hash_of, set_password
from commerce.accounts.tokens import Identity
from goodsyard.interventions import record
from producers import problems
from producers.answers import no_content
from producers.authentication import Principal, current_user, require_admin, require_scope
from producers.bodies import JsonRoute
from producers.gate import refuse_excess
from producers.problems import ProblemError, not_found
from producers.services import Services, Use

router = APIRouter(route_class=JsonRoute)

Anybody = Annotated[Principal, require_scope()]
Admin = Annotated[Principal, require_admin]
Myself = Annotated[UUID, Depends(current_user)]

NewPassword = Annotated[str, StringConstraints(min_length=8, max_length=256)]
"""What is accepted as a password; it is kept as an Argon2id hash."""


class PasswordChange(BaseModel):
    """The password that is, and the one that shall be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    old_password: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    new_password: NewPassword


class PasswordIn(BaseModel):
    """The password that shall be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    password: NewPassword = Field(description="Kept as an Argon2id hash.")


@router.put(
    "/v1/auth/password",
    status_code=204,
    tags=["signing in"],
    responses=problems.refusals(problems.NO_PERSON, problems.IDENTITY_UNPROVEN),
)
async def change_password(
    body: PasswordChange, user_id: Myself, principal: Anybody, use: Use
) -> Response:
    """Change one's own password, by telling the old one; all of one's access tokens are over then.

    The one that this request shows too: sign in again. Failures are limited as those of signing in.
    """
    identity = Identity(principal.tenant, user_id)
    guesses = f"password:{user_id}"
    refuse_excess(await use.sign_in_rate.hit(guesses))
    async with use.sessions.begin() as tx:
        old = await password_hash_of(tx, identity)
    if old is None or not await use.passwords.fits(body.old_password, old):
        raise ProblemError(problems.IDENTITY_UNPROVEN)
    await use.sign_in_rate.give_back(guesses)
    if not await _set_password(use, principal, identity, body.new_password, instead_of=old):
        raise ProblemError(
            problems.IDENTITY_UNPROVEN, "It was changed by another request just now."
        )
    return no_content()


@router.put("/v1/users/{user_id:uuid}/password", status_code=204, tags=["users"])
async def reset_password(user_id: UUID, body: PasswordIn, principal: Admin, use: Use) -> Response:
    """Give a user another password, or their first one; all their access tokens are over then."""
    identity = Identity(principal.tenant, user_id)
    if not await _set_password(use, principal, identity, body.password):
        raise not_found(f"user {user_id}")
    return no_content()


@router.delete(
    "/v1/auth/sessions",
    status_code=204,
    tags=["signing in"],
    responses=problems.refusals(problems.NO_PERSON),
)
async def sign_out_everywhere(user_id: Myself, principal: Anybody, use: Use) -> Response:
    """Sign out everywhere: none of one's access tokens so far opens anything any more.

    The one that this request shows too. The others are over within five seconds at the latest.
    """
    await _end_sessions(use, principal, user_id)
    return no_content()


@router.delete("/v1/users/{user_id:uuid}/sessions", status_code=204, tags=["users"])
async def sign_out(user_id: UUID, principal: Admin, use: Use) -> Response:
    """Sign a user out everywhere; with their password they can sign in again."""
    if not await _end_sessions(use, principal, user_id):
        raise not_found(f"user {user_id}")
    return no_content()


async def _set_password(
    use: Services,
    principal: Principal,
    identity: Identity,
    password: str,
    *,
    instead_of: str | None = None,
) -> bool:
    new = await use.passwords.hash(password)
    async with use.sessions.begin() as tx:
        found = await set_password(tx, identity, new, instead_of=instead_of)
        if found:
            await record(tx, principal.actor, "user.password", [str(identity.user_id)])
    use.keys.forget_person(identity)
    return found


async def _end_sessions(use: Services, principal: Principal, user_id: UUID) -> bool:
    identity = Identity(principal.tenant, user_id)
    async with use.sessions.begin() as tx:
        found = await end_sessions(tx, identity)
        if found:
            await record(tx, principal.actor, "user.sign_out", [str(user_id)])
    use.keys.forget_person(identity)
    return found
