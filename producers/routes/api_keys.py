"""``/v1/api-keys``: keys for services of the same tenant."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from commerce.accounts.keys import issue_api_key, list_api_keys, new_key_id, revoke_api_key
from commerce.accounts.scopes import SCOPE_PATTERN, UnknownScopeError, check_scopes
from goodsyard.interventions import record
from producers.answers import JsonAnswer, no_content
from producers.authentication import Principal, require_admin
from producers.bodies import JsonRoute, Moment
from producers.idempotency import AcceptedKey, claim, replayed
from producers.problems import not_found
from producers.services import Use

router = APIRouter(prefix="/v1/api-keys", tags=["api keys"], route_class=JsonRoute)

Admin = Annotated[Principal, require_admin]
KeyId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]


def _known(scopes: list[str]) -> list[str]:
    try:
        check_scopes(scopes)
    except UnknownScopeError as error:
        raise PydanticCustomError("unknown_scope", "{why}", {"why": str(error)}) from error
    return scopes


Scopes = Annotated[
    list[Annotated[str, WithJsonSchema({"type": "string", "pattern": SCOPE_PATTERN})]],
    Field(min_length=1, max_length=50),
    AfterValidator(_known),
]


class KeyIn(BaseModel):
    """What a new key is for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")] = Field(
        description="What the audit log calls it."
    )
    scopes: Scopes
    expires_at: Moment | None = None


class KeyOut(BaseModel):
    """A key; ``key`` is shown in the answer that makes it and never again."""

    id: str
    name: str
    scopes: list[str]
    expires_at: datetime | None
    key: str | None = None


@router.post("", status_code=201, response_model=KeyOut)
async def issue(body: KeyIn, key: AcceptedKey, principal: Admin, use: Use) -> Response:
    """Make a key. It is shown this once; a replay shows all but the key itself."""
    key_id = new_key_id()
    async with use.sessions.begin() as tx:
        holder = await claim(tx, principal.tenant, key, {"api_key": key_id})
        document = {
            "id": holder.resource["api_key"],
            "name": body.name,
            "scopes": sorted(set(body.scopes)),
            "expires_at": body.expires_at,
        }
        if holder.won:
            document["key"] = await issue_api_key(
                tx, key_id, principal.tenant, body.name, body.scopes, expires_at=body.expires_at
            )
            await record(tx, principal.actor, "api_key.issue", [key_id])
    location = f"/v1/api-keys/{document['id']}"
    return JsonAnswer(document, 201, {"Location": location, **replayed(holder)})


class KeysOut(BaseModel):
    """All keys that aren't revoked."""

    data: list[KeyOut]
    next_cursor: None = None


@router.get("", response_model=KeysOut, response_model_exclude_unset=True)
async def list_all(principal: Admin, use: Use) -> Response:
    """List the keys that aren't revoked, the oldest first; what opens anything isn't kept."""
    async with use.sessions.begin() as tx:
        keys = await list_api_keys(tx, principal.tenant)
    return JsonAnswer({"data": [asdict(key) for key in keys], "next_cursor": None})


@router.delete("/{key_id}", status_code=204)
async def revoke(key_id: KeyId, principal: Admin, use: Use) -> Response:
    """Revoke a key; every API process refuses it within five seconds."""
    async with use.sessions.begin() as tx:
        revoked = await revoke_api_key(tx, key_id, tenant=principal.tenant)
        if revoked:
            await record(tx, principal.actor, "api_key.revoke", [key_id])
    if not revoked:
        raise not_found(f"API key {key_id}")
    use.keys.forget_key(key_id)
    return no_content()
