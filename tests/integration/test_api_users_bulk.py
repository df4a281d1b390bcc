"""Many users over HTTP at once."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from tests.integration.conftest import Api


def person(number: int) -> dict[str, str]:
    return {"email": f"p{number}@example.com", "username": f"p{number}"}


async def test_users_of_a_bulk_are_added_or_refused_each_by_itself(api: Api) -> None:
    taken = (await api.http.post("/v1/users", json=person(0))).headers["Location"]
    sent = [
        person(1),
        {"email": "P0@EXAMPLE.com", "username": "another"},
        {"email": "new@example.com", "username": "p0"},
        {"email": "nobody", "username": "x"},
        "not even a user",
        person(2) | {"full_name": "nul \u0000"},
        person(3),
    ]
    answer = await api.http.post("/v1/users/bulk", json={"users": sent})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [r["status"] for r in results] == [201, 409, 409, 422, 422, 422, 201]
    assert [r.get("location") for r in results[1:3]] == [taken, taken]
    assert [r["problem"]["type"] for r in results[1:3]] == [
        "/problems/email-taken",
        "/problems/username-taken",
    ]
    assert results[3]["problem"]["errors"][0]["pointer"] == "#/users/3/email"
    href = results[0]["user"]["href"]
    assert (await api.http.get(href)).json() == results[0]["user"]


async def test_a_repeated_bulk_adds_nobody_and_says_who_is_there(api: Api) -> None:
    people = {"users": [person(n) for n in range(50)]}
    first = (await api.http.post("/v1/users/bulk", json=people)).json()["results"]
    again = (await api.http.post("/v1/users/bulk", json=people)).json()["results"]
    assert {r["status"] for r in again} == {409}
    assert [r["location"] for r in again] == [r["user"]["href"] for r in first]


async def test_equal_bulks_at_once_add_everybody_once(api: Api) -> None:
    people = [person(n) for n in range(40)]
    bulks = [people, people[::-1], people[20:] + people[:20], people]
    answers = await asyncio.gather(
        *(api.http.post("/v1/users/bulk", json={"users": bulk}) for bulk in bulks)
    )
    assert [a.status_code for a in answers] == [200] * len(bulks)
    added = [r for a in answers for r in a.json()["results"] if r["status"] == 201]
    assert len({r["user"]["id"] for r in added}) == len(added) == 40
    async with api.sessions.begin() as tx:
        assert await tx.scalar(text("SELECT count(*) FROM commerce.users")) == 40


async def test_a_bulk_of_users_has_its_bounds(api: Api) -> None:
    assert (await api.http.post("/v1/users/bulk", json={"users": []})).json() == {"results": []}
    many = {"users": [person(n) for n in range(1_001)]}
    refused = await api.http.post("/v1/users/bulk", json=many)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/users"


async def test_an_address_in_letters_of_two_lower_cases_is_taken_all_the_same(api: Api) -> None:
    for number, status in ((1, 201), (2, 409)):
        user = {"email": "İx@example.com", "username": f"ix{number}"}
        answer = await api.http.post("/v1/users/bulk", json={"users": [user]})
        assert answer.status_code == 200, answer.text
        assert [result["status"] for result in answer.json()["results"]] == [status]
