"""People who sign in: how they get a token, what it opens, and when it stops to."""

from __future__ import annotations

import asyncio
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt
import pytest
from pwdlib import PasswordHash
from sqlalchemy import text

from commerce.accounts.keys import create_api_key
from commerce.accounts.passwords import Passwords
from goodsyard.database import Sessions
from producers import authentication
from producers.app import create_app
from producers.settings import ApiSettings
from tests.integration.conftest import Api, order_for
from tests.saga import SECRET_KEY

PASSWORD = "correct horse battery"  # noqa: S105 - of people of tests
NOBODY = "0198a6b0-0000-7000-8000-000000000000"


async def ask(api: Api, username: str, password: str = PASSWORD, **more: str) -> httpx.Response:
    """Try to sign in; as a stranger: without the key that the client of tests shows."""
    form = {"grant_type": "password", "username": username, "password": password, **more}
    return await api.http.post("/v1/auth/token", data=form, headers={"Authorization": ""})


async def person(api: Api, username: str, role: str = "customer") -> tuple[str, dict[str, str]]:
    """Add somebody, sign them in, and return their id and the headers they call with."""
    email = f"{username}@example.com"
    user = await api.user(username=username, email=email, password=PASSWORD)
    changed = await api.http.put(f"/v1/users/{user}/role", json={"role": role})
    assert changed.status_code == 200, changed.text
    return user, await signed_in(api, username)


async def signed_in(api: Api, username: str) -> dict[str, str]:
    answer = await ask(api, username)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the API remember people for less than it does."""
    monkeypatch.setattr(authentication, "REMEMBER_SECONDS", 0.2)


async def test_a_person_signs_in_by_name_or_address_and_is_who_they_are(api: Api) -> None:
    user, _ = await person(api, "ann")
    for name in ("ann", "ANN@Example.com"):
        answer = await ask(api, name)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        body = answer.json()
        assert (body["token_type"], body["expires_in"]) == ("bearer", 3_600)
        assert "orders:write" in body["scope"].split()
        claims = jwt.decode(body["access_token"], options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == 3_600
        bearer = {"Authorization": f"Bearer {body['access_token']}"}
        me = await api.http.get("/v1/users/me", headers=bearer)
        assert me.json()["id"] == user
    service = await api.http.get("/v1/users/me")
    assert (service.status_code, service.json()["type"]) == (403, "/problems/no-person")


async def test_a_wrong_password_and_nobody_are_told_apart_by_nothing(api: Api) -> None:
    await person(api, "bob")
    await api.user(username="mute", email="mute@example.com")  # has no password at all
    answers = [
        await ask(api, "bob", "not the password"),
        await ask(api, "nobody"),
        await ask(api, "nobody@example.com"),
        await ask(api, "mute"),
        await ask(api, "bob", client_id="no such tenant"),
    ]
    assert {answer.status_code for answer in answers} == {400}
    assert len({answer.text for answer in answers}) == 1
    problem = answers[0].json()
    assert answers[0].headers["Content-Type"] == "application/problem+json"
    assert problem["error"] == "invalid_grant"
    assert problem["error_description"] == problem["detail"]


async def test_nobody_costs_as_many_hashes_as_a_wrong_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords = Passwords()
    kept = await passwords.hash("theirs")
    compared: list[str | bytes] = []
    verify = PasswordHash.verify

    def counting(self: PasswordHash, password: str | bytes, against: str | bytes) -> bool:
        compared.append(against)
        return verify(self, password, against)

    monkeypatch.setattr(PasswordHash, "verify", counting)
    assert await passwords.fits("theirs", kept)
    assert not await passwords.fits("wrong", kept)
    assert not await passwords.fits("wrong", None)
    assert len(compared) == 3
    parameters = {str(each).rsplit("$", 2)[0] for each in compared}
    assert len(parameters) == 1  # the same algorithm, memory, rounds and lanes


async def test_a_name_that_two_tenants_know_takes_the_tenants_name(api: Api) -> None:
    here, _ = await person(api, "eve")
    other = await api.caller("admin", tenant="elsewhere")
    body = {"email": "eve@example.com", "username": "eve", "password": PASSWORD}
    there = (await api.http.post("/v1/users", json=body, headers=other)).json()["id"]
    assert (await ask(api, "eve")).json()["error"] == "invalid_grant"
    for tenant, user in (("shop", here), ("elsewhere", there)):
        token = (await ask(api, "eve", client_id=tenant)).json()["access_token"]
        me = await api.http.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        assert me.json()["id"] == user


async def test_a_form_that_is_wrong_is_refused_in_the_words_of_oauth(api: Api) -> None:
    stranger = {"Authorization": ""}
    whole = {"grant_type": "password", "username": "x", "password": "y"}
    for form, error in (
        ({}, "invalid_request"),
        (whole | {"grant_type": "client_credentials"}, "unsupported_grant_type"),
        (whole | {"username": "a\0b"}, "invalid_request"),
        (whole | {"password": "x" * 257}, "invalid_request"),
        (whole | {"client_id": "\0"}, "invalid_request"),
    ):
        answer = await api.http.post(
            "/v1/auth/token",
            content=urlencode(form),
            headers=stranger | {"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert (answer.status_code, answer.json()["error"]) == (400, error), form
    as_json = await api.http.post("/v1/auth/token", json=whole, headers=stranger)
    assert as_json.status_code == 415
    large = await api.http.post("/v1/auth/token", data=whole | {"x": "y" * 5_000}, headers=stranger)
    assert large.status_code == 413
    packed = stranger | {"Content-Encoding": "gzip"}
    assert (await api.http.post("/v1/auth/token", data=whole, headers=packed)).status_code == 415
    assert (await api.http.get("/v1/auth/token", headers=stranger)).status_code == 405


SIGNING_KEY = hmac.digest(SECRET_KEY.encode(), b"goodsyard access token 1", "sha256")


def forged(**changes: Any) -> dict[str, str]:  # noqa: ANN401 - whatever a claim may be
    """Return headers with a token as the API makes them, but for the ``changes``."""
    now = datetime.now(UTC)
    key = changes.pop("key", SIGNING_KEY)
    algorithm = changes.pop("algorithm", "HS256")
    claims = {
        "iss": "goodsyard",
        "aud": "goodsyard api",
        "iat": now,
        "exp": now + timedelta(minutes=5),
        "jti": "1",
        "generation": 1,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm)}"}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")  # forged by us
async def test_only_a_token_of_ours_that_is_good_now_opens_anything(api: Api) -> None:
    user, real = await person(api, "fay")
    async with api.sessions.begin() as tx:
        tenant = await tx.scalar(
            text("SELECT tenant FROM commerce.users WHERE id = :i"), {"i": user}
        )
    good = forged(sub=user, tenant=tenant)
    assert (await api.http.get("/v1/users/me", headers=good)).status_code == 200
    others = b"a key that isn't this API's: its own is of this length as well"
    long_ago = datetime.now(UTC) - timedelta(seconds=1)
    head, body, signature = real["Authorization"].split(".")
    bad = {
        "no signature": forged(sub=user, tenant=tenant, algorithm="none", key=None),
        "another algorithm": forged(sub=user, tenant=tenant, algorithm="HS512"),
        "another key": forged(sub=user, tenant=tenant, key=others),
        "the undivided key": forged(sub=user, tenant=tenant, key=SECRET_KEY),
        "another audience": forged(sub=user, tenant=tenant, aud="somebody else"),
        "two audiences": forged(sub=user, tenant=tenant, aud=["goodsyard api", "somebody else"]),
        "another issuer": forged(sub=user, tenant=tenant, iss="somebody else"),
        "expired": forged(sub=user, tenant=tenant, exp=long_ago),
        "for ever": forged(sub=user, tenant=tenant, exp=None),
        "of nobody": forged(sub=NOBODY, tenant=tenant),
        "of no user": forged(sub="admin", tenant=tenant),
        "of another tenant": forged(sub=user, tenant=tenant + 1),
        "of no tenant": forged(sub=user, tenant=None),
        "of a tenant in words": forged(sub=user, tenant=str(tenant)),
        "of a tenant that is true": forged(sub=user, tenant=True),
        "of no generation": forged(sub=user, tenant=tenant, generation=None),
        "of a generation to come": forged(sub=user, tenant=tenant, generation=2),
        "of a generation that is true": forged(sub=user, tenant=tenant, generation=True),
        "tampered with": {"Authorization": f"{head}.{body[:-2]}AA.{signature}"},
        "cut": {"Authorization": f"{head}.{body}."},
        "endless": {"Authorization": real["Authorization"] + "A" * 2_000},
        "as a key": {"Authorization": f"Bearer gy_live_{real['Authorization'][7:]}"},
        "in another scheme": {"Authorization": f"Basic {real['Authorization'][7:]}"},
    }
    for what, headers in bad.items():
        answer = await api.http.get("/v1/users/me", headers=headers)
        assert answer.status_code == 401, what
        assert answer.json()["type"] == "/problems/unauthenticated"
    key = api.http.headers["Authorization"].removeprefix("Bearer ")
    as_token = forged(sub=user, tenant=tenant, key=key)  # a key of the API is no key to its tokens
    assert (await api.http.get("/v1/users/me", headers=as_token)).status_code == 401


@pytest.mark.in_process("changes what the process goes by")
async def test_the_token_of_somebody_who_was_erased_opens_nothing(brief: None, api: Api) -> None:
    user, bearer = await person(api, "gus")
    assert (await api.http.get("/v1/users/me", headers=bearer)).status_code == 200
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204
    assert (await api.http.get("/v1/users/me", headers=bearer)).status_code == 401
    assert (await ask(api, "gus")).json()["error"] == "invalid_grant"


@pytest.mark.in_process("changes what the process goes by")
async def test_a_role_that_was_changed_elsewhere_holds_within_seconds(
    brief: None, api: Api
) -> None:
    user, bearer = await person(api, "hal", "admin")
    await person(api, "ida", "admin")
    assert (await api.http.get("/v1/queues", headers=bearer)).status_code == 200
    async with api.sessions.begin() as tx:  # as another process of the API would
        statement = text("UPDATE commerce.users SET role = 'customer' WHERE id = :id")
        await tx.execute(statement, {"id": user})
    async with asyncio.timeout(5):
        while (await api.http.get("/v1/queues", headers=bearer)).status_code != 403:
            pass


async def test_only_an_admin_gives_roles_and_each_change_is_written_down(api: Api) -> None:
    admin, as_admin = await person(api, "jan", "admin")
    user, as_customer = await person(api, "kim")
    _, as_support = await person(api, "lea", "support")
    place = f"/v1/users/{user}/role"
    for headers in (as_customer, as_support):
        refused = await api.http.put(place, json={"role": "admin"}, headers=headers)
        assert (refused.status_code, refused.json()["scope"]) == (403, "admin")
    given = await api.http.put(place, json={"role": "support"}, headers=as_admin)
    assert given.json() == {"user_id": user, "role": "support"}
    assert (await api.http.get(place, headers=as_admin)).json()["role"] == "support"
    other = await api.caller("admin", tenant="elsewhere")
    for answer in (
        await api.http.put(place, json={"role": "admin"}, headers=other),
        await api.http.get(place, headers=other),
    ):
        assert answer.status_code == 404
    assert (await api.http.put(place, json={"role": "owner"})).status_code == 422
    async with api.sessions.begin() as tx:
        log = (
            await tx.execute(
                text(
                    "SELECT actor, detail->>'role' FROM goodsyard.audit "
                    "WHERE action = 'user.role' AND target = :t ORDER BY id"
                ),
                {"t": user},
            )
        ).all()
    assert [tuple(row) for row in log] == [
        ("admin of tests", "customer"),
        (f"user {admin}", "support"),
    ]


async def test_the_last_admin_stays_one_however_many_go_at_once(api: Api) -> None:
    people = [await person(api, f"admin{number}", "admin") for number in range(4)]
    demoted = await asyncio.gather(
        *(
            api.http.put(f"/v1/users/{user}/role", json={"role": "customer"})
            for user, _ in people[:2]
        ),
        *(api.http.delete(f"/v1/users/{user}") for user, _ in people[2:]),
    )
    codes = [answer.status_code for answer in demoted]
    assert sorted(codes) == [200, 200, 204, 409] or sorted(codes) == [200, 204, 204, 409]
    refused = next(answer for answer in demoted if answer.status_code == 409)
    assert refused.json()["type"] == "/problems/last-admin"
    last, _ = people[codes.index(409)]
    kept = await api.http.put(f"/v1/users/{last}/role", json={"role": "support"})
    assert (kept.status_code, kept.json()["type"]) == (409, "/problems/last-admin")
    assert (await api.http.delete(f"/v1/users/{last}")).status_code == 409
    assert (await api.http.get(f"/v1/users/{last}/role")).json()["role"] == "admin"


async def test_a_customer_meets_nobody_elses_things_at_any_address(api: Api) -> None:
    ann, _ = await person(api, "mia")
    _, bearer = await person(api, "ned")
    order = (await api.submit(order_for(ann), "mias")).json()["order"]["id"]
    places = (await api.http.get("/openapi.json")).json()["paths"]
    body: dict[str, Any]
    met = set()
    for path, methods in places.items():
        if not path.startswith("/v1/") or path in {
            "/v1/auth/token",
            "/v1/gateway/events",
            "/v1/auth/sessions",  # it would end the session that asks
        }:
            continue
        filled = path.replace("{order_id}", order).replace("{user_id}", ann)
        filled = filled.replace("{payment_id}", NOBODY).replace("{job_id}", NOBODY)
        for method in methods:
            body = order_for(ann) if path == "/v1/orders" else {}
            answer = await api.http.request(
                method.upper(),
                filled,
                headers=bearer | {"Idempotency-Key": f"{method} {path}"},
                json=body if method in {"post", "put", "patch"} else None,
            )
            assert "mia" not in answer.text, (method, path)
            if answer.is_success:
                met.add((method, path))
    assert met == {("get", "/v1/orders"), ("get", "/v1/users/me")}
    assert (await api.http.get("/v1/orders", headers=bearer)).json()["data"] == []
    of_ann = await api.http.get(f"/v1/orders?user_id={ann}", headers=bearer)
    assert of_ann.status_code == 404
    refused = await api.http.post(
        "/v1/orders", json=order_for(ann), headers=bearer | {"Idempotency-Key": "x"}
    )
    assert refused.json()["errors"][0]["pointer"] == "#/user_id"
    many = {"orders": [{**order_for(ann), "idempotency_key": "y"}]}
    result = (await api.http.post("/v1/orders/bulk", json=many, headers=bearer)).json()
    assert result["results"][0]["status"] == 422


async def test_a_customer_follows_and_cancels_their_own_order(api: Api) -> None:
    user, bearer = await person(api, "oda")
    made = await api.http.post(
        "/v1/orders", json=order_for(user), headers=bearer | {"Idempotency-Key": "odas"}
    )
    assert made.status_code == 202, made.text
    place = made.headers["Location"]
    assert (await api.http.get(place, headers=bearer)).status_code == 200
    listed = (await api.http.get("/v1/orders", headers=bearer)).json()["data"]
    assert [order["href"] for order in listed] == [place]
    assert (await api.http.get(f"/v1/users/{user}/orders", headers=bearer)).is_success
    assert (await api.http.post(f"{place}/cancel", headers=bearer)).status_code == 202


async def test_failed_sign_ins_are_limited_by_name_and_by_address_and_good_ones_are_not(
    api_settings: ApiSettings, sessions: Sessions
) -> None:
    strict = api_settings.model_copy(update={"api_sign_in_rate": "3/hour"})
    app = create_app(strict)
    async with sessions.begin() as tx:
        key = await create_api_key(tx, "shop", "tests", ["admin"], unlimited=True)

    def client(address: str) -> Api:
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(address, 1)),
            base_url="http://api.test",
            headers={"Authorization": f"Bearer {key}"},
        )
        return Api(http, app, sessions)

    async with app.router.lifespan_context(app):
        api = client("192.0.2.1")
        await person(api, "pat")
        for _ in range(5):
            assert (await ask(api, "pat")).status_code == 200
        guesses = [await ask(client(f"192.0.2.{n}"), "pat", "guess") for n in range(2, 6)]
        assert [guess.status_code for guess in guesses] == [400, 400, 400, 429]
        assert int(guesses[-1].headers["Retry-After"]) > 0
        tries = [await ask(client("192.0.2.9"), f"nobody{n}") for n in range(4)]
        assert [each.status_code for each in tries] == [400, 400, 400, 429]
