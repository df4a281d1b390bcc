"""Who changes a password, or signs out everywhere, has no session left that was open before."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from sqlalchemy import text

from producers import authentication
from producers.app import create_app
from producers.settings import ApiSettings
from tests.integration.conftest import Api
from tests.integration.test_api_auth import PASSWORD, ask, person, signed_in

ANOTHER = "another horse, another battery"


async def change(
    api: Api, bearer: dict[str, str], old: str = PASSWORD, new: str = ANOTHER
) -> httpx.Response:
    body = {"old_password": old, "new_password": new}
    return await api.http.put("/v1/auth/password", json=body, headers=bearer)


async def opens(api: Api, bearer: dict[str, str]) -> bool:
    return (await api.http.get("/v1/users/me", headers=bearer)).status_code == 200


async def test_a_changed_password_ends_every_session_and_only_the_new_one_signs_in(
    api: Api,
) -> None:
    _, here = await person(api, "ann")
    there = await signed_in(api, "ann")
    assert (await change(api, here)).status_code == 204
    assert [await opens(api, bearer) for bearer in (here, there)] == [False, False]
    assert (await ask(api, "ann")).status_code == 400
    token = (await ask(api, "ann", ANOTHER)).json()["access_token"]
    assert await opens(api, {"Authorization": f"Bearer {token}"})


@pytest.mark.in_process("looks into the process")
async def test_without_the_old_password_nothing_changes_and_guesses_are_few(api: Api) -> None:
    user, bearer = await person(api, "bob")
    for _ in range(9):  # as that many guesses would, without their hashes
        await api.services.sign_in_rate.hit(f"password:{user}")
    refused = await change(api, bearer, "a guess")
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/identity-unproven")
    late = await change(api, bearer)
    assert (late.status_code, late.json()["type"]) == (429, "/problems/rate-limited")
    assert int(late.headers["Retry-After"]) > 0
    assert await opens(api, bearer)
    assert (await ask(api, "bob")).status_code == 200


async def test_of_two_changes_at_once_one_holds(api: Api) -> None:
    _, bearer = await person(api, "cid")
    answers = await asyncio.gather(*(change(api, bearer, new=f"password {n}") for n in range(2)))
    assert sorted(answer.status_code for answer in answers) in ([204, 401], [204, 403])
    held = [answer.status_code for answer in answers].index(204)
    assert (await ask(api, "cid", f"password {held}")).status_code == 200
    assert (await ask(api, "cid", f"password {1 - held}")).status_code == 400


async def test_an_administrator_gives_a_password_and_writes_that_down_and_not_the_password(
    api: Api,
) -> None:
    user, bearer = await person(api, "dot")
    path = f"/v1/users/{user}/password"
    refused = await api.http.put(path, json={"password": ANOTHER}, headers=bearer)
    assert refused.status_code == 403
    assert (await api.http.put(path, json={"password": ANOTHER})).status_code == 204
    assert not await opens(api, bearer)
    assert (await ask(api, "dot", ANOTHER)).status_code == 200
    async with api.sessions.begin() as tx:
        statement = text("SELECT to_jsonb(a)::text FROM goodsyard.audit a WHERE target = :user")
        written = list(await tx.scalars(statement, {"user": user}))
    assert any("user.password" in line for line in written)
    assert not any(ANOTHER in line or "argon2" in line for line in written)


async def test_who_signs_out_everywhere_signs_in_again_with_the_same_password(api: Api) -> None:
    user, here = await person(api, "eve")
    there = await signed_in(api, "eve")
    assert (await api.http.delete("/v1/auth/sessions", headers=here)).status_code == 204
    assert [await opens(api, bearer) for bearer in (here, there)] == [False, False]
    again = await signed_in(api, "eve")
    assert await opens(api, again)
    assert (await api.http.delete(f"/v1/users/{user}/sessions")).status_code == 204
    assert not await opens(api, again)


@pytest.mark.in_process("changes what the process goes by")
async def test_another_process_takes_the_new_session_at_once_and_drops_the_old_in_seconds(
    monkeypatch: pytest.MonkeyPatch, api_settings: ApiSettings, api: Api
) -> None:
    monkeypatch.setattr(authentication, "REMEMBER_SECONDS", 0.2)
    _, old = await person(api, "fay")
    other = create_app(api_settings)
    async with (
        other.router.lifespan_context(other),
        httpx.AsyncClient(transport=httpx.ASGITransport(other), base_url="http://api.test") as http,
    ):
        assert (await http.get("/v1/users/me", headers=old)).status_code == 200  # remembers fay
        await api.http.delete("/v1/auth/sessions", headers=old)
        new = await signed_in(api, "fay")
        assert (await http.get("/v1/users/me", headers=new)).status_code == 200
        async with asyncio.timeout(5):
            while (await http.get("/v1/users/me", headers=old)).status_code != 401:
                pass


async def test_only_the_tenants_own_people_are_reset_and_only_people_have_a_password(
    api: Api,
) -> None:
    user, bearer = await person(api, "gus")
    strange = await api.caller("admin", tenant="elsewhere")
    body = {"password": ANOTHER}
    for answer in (
        await api.http.put(f"/v1/users/{user}/password", json=body, headers=strange),
        await api.http.delete(f"/v1/users/{user}/sessions", headers=strange),
    ):
        assert answer.status_code == 404
    assert await opens(api, bearer)
    service = await change(api, {})
    assert (service.status_code, service.json()["type"]) == (403, "/problems/no-person")
    assert (await api.http.delete("/v1/auth/sessions")).json()["type"] == "/problems/no-person"
