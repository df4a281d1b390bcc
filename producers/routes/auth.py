"""``POST /v1/auth/token``: people sign in by the password grant of OAuth 2.0 (RFC 6749, 4.3).

Who guesses learns nothing: a wrong password, somebody who doesn't exist and a name that several
tenants know are told apart neither by the answer nor by its time.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from commerce.accounts.people import Credentials, find_credentials
from commerce.accounts.roles import SCOPES_OF
from commerce.accounts.tokens import LIFETIME_SECONDS
from producers import problems
from producers.answers import JsonAnswer
from producers.forms import FormRoute
from producers.gate import SIGN_IN, address_of, refuse_excess
from producers.problems import ProblemError
from producers.services import Services, Use

router = APIRouter(tags=["signing in"], route_class=FormRoute)

_Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,320}$")]
_Password = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,256}$")]


class TokenIn(BaseModel):
    """What a person signs in with; further parameters are passed over, as RFC 6749 asks."""

    model_config = ConfigDict(frozen=True)

    grant_type: Literal["password"]
    username: _Name = Field(description="Or the e-mail address.")
    password: _Password
    client_id: _Name | None = Field(
        default=None,
        description="The tenant's name. It can be left out where no other tenant knows the name.",
    )


class TokenOut(BaseModel):
    """An access token, as in RFC 6749, section 5.1."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="Seconds.")
    scope: str = Field(description="What the person's role allows, by spaces.")


@router.post(SIGN_IN, response_model=TokenOut, responses=problems.refusals(problems.TOKEN_REFUSED))
async def sign_in(request: Request, form: Annotated[TokenIn, Form()], use: Use) -> Response:
    """Sign in, for an access token that works for an hour as `Authorization: Bearer`.

    Failures are limited strictly, by address and by name; who signs in isn't counted.
    """
    name = _counted_as(form)
    refuse_excess(await use.sign_in_rate.hit(name))
    credentials = await _verified(use, form)
    if credentials is None:
        raise _refusal()
    await use.sign_in_rate.give_back(name)
    await use.sign_in_rate.give_back(address_of(request.scope))
    return JsonAnswer(
        {
            "access_token": use.tokens.issue(credentials.session),
            "token_type": "bearer",
            "expires_in": LIFETIME_SECONDS,
            "scope": " ".join(sorted(SCOPES_OF[credentials.role])),
        }
    )


async def _verified(use: Services, form: TokenIn) -> Credentials | None:
    async with use.sessions.begin() as tx:
        found = await find_credentials(tx, form.username, form.client_id)
    fits = await use.passwords.fits(form.password, found.password_hash if found else None)
    return found if fits else None


def _counted_as(form: TokenIn) -> str:
    # Hashed: Redis need not know who tries to sign in.
    name = f"{form.client_id}\0{form.username.casefold()}"
    return f"name:{hashlib.sha256(name.encode()).hexdigest()}"


def _refusal() -> ProblemError:
    description = (
        "The name or the password is wrong, or several tenants know the name: "
        "then client_id must say which."
    )
    return ProblemError(
        problems.TOKEN_REFUSED,
        description,
        members={"error": "invalid_grant", "error_description": description},
    )
