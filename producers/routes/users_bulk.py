"""``POST /v1/users/bulk``: many users in one statement, each added or refused by itself."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import Response

from commerce.accounts.newcomers import Newcomer, Taken, add_users
from commerce.accounts.profiles import Profile
from producers.answers import JsonAnswer
from producers.bodies import BulkRoute, one_by_one, refuse_unstorable
from producers.failures import invalid_body
from producers.order_shapes import Document
from producers.problems import Problem, ProblemError
from producers.routes.users import TAKEN, NewUser, UserOut, Writer, user_document, user_href
from producers.services import Use

MAX_BULK = 1_000
PATH = "/v1/users/bulk"

router = APIRouter(prefix="/v1/users", tags=["users"], route_class=BulkRoute)

_new_user = TypeAdapter(NewUser)


class BulkUsersIn(BaseModel):
    """Many users."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Looked at one by one, so that a bad one is that user's problem and not the request's.
    users: Annotated[
        list[Any],
        Field(max_length=MAX_BULK),
        one_by_one(_new_user.json_schema(), MAX_BULK),
    ]


class BulkUserResult(BaseModel):
    """What became of one user of a bulk: the user, or a problem and who is in the way."""

    status: int
    user: UserOut | None = None
    problem: Problem | None = None
    location: str | None = None


class BulkUsersOut(BaseModel):
    """What became of the users of a bulk, in their order."""

    results: list[BulkUserResult]


@router.post("/bulk", response_model=BulkUsersOut, response_model_exclude_unset=True)
async def add_many(body: BulkUsersIn, principal: Writer, use: Use) -> Response:
    """Add up to 1,000 users. It needs no key: a repeat is told who has each address.

    A user whose address or username is taken is that user's 409, with `location` naming the one
    who has it.
    """
    read = [_read(item, number) for number, item in enumerate(body.users)]
    newcomers = [user for user in read if isinstance(user, Newcomer)]
    async with use.sessions.begin() as tx:
        added = await add_users(tx, principal.tenant, newcomers)
    verdicts = iter(added)
    results = [_result(next(verdicts) if isinstance(u, Newcomer) else u) for u in read]
    return JsonAnswer({"results": results})


def _read(item: Any, number: int) -> Newcomer | ProblemError:  # noqa: ANN401 - whatever was sent
    try:
        refuse_unstorable(item)
        user = _new_user.validate_python(item)
    except ValidationError as error:
        return invalid_body(error, ("users", str(number)))
    except ProblemError as problem:
        return problem
    return Newcomer(user.email, user.username, user.full_name)


def _result(verdict: Profile | Taken | ProblemError) -> Document:
    if isinstance(verdict, Profile):
        return {"status": 201, "user": user_document(verdict)}
    if isinstance(verdict, ProblemError):
        return {"status": verdict.kind.status, "problem": verdict.document(PATH)}
    refusal = ProblemError(
        TAKEN[verdict.field], f"Another user has this {verdict.field}; nothing was added."
    )
    return {
        "status": refusal.kind.status,
        "problem": refusal.document(PATH),
        "location": user_href(verdict.holder),
    }
