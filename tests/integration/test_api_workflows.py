"""Workflows over HTTP: handed in as a whole, looked at, called off, each by whom it concerns."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from producers.workflow_shapes import MOST_STEPS_IN
from tests.integration.conftest import Api, order_for

MAIL = {"to": "someone@example.com", "message_subject": "Hello", "body": "There"}


def mail(name: str, *after: str, **fields: object) -> dict[str, Any]:
    """Return a step."""
    return {
        "name": name,
        "kind": "notifications.email",
        "payload": MAIL,
        "after": list(after),
        **fields,
    }


async def hand_in(api: Api, key: str, *steps: dict[str, Any]) -> httpx.Response:
    return await api.http.post(
        "/v1/workflows", json={"steps": steps}, headers={"Idempotency-Key": key}
    )


async def accepted(api: Api, key: str, *steps: dict[str, Any]) -> dict[str, Any]:
    """Hand a workflow in, and return it as it is shown then."""
    answer = await hand_in(api, key, *steps)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == answer.json()["workflow"]["href"]
    return await shown(api, answer.json()["workflow"])


async def shown(api: Api, workflow: dict[str, Any]) -> dict[str, Any]:
    answer = await api.http.get(workflow["href"])
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def end(api: Api, job: str, state: str) -> None:
    """Let a job be over, as if a worker had done so, or dead."""
    async with api.sessions.begin() as tx:
        if state == "dead":
            dead = (
                "UPDATE goodsyard.job SET state = 'dead', reason = 'attempts', finished_at = now()"
            )
            await tx.execute(text(f"{dead} WHERE id = :id"), {"id": UUID(job)})
            return
        await tx.execute(
            text("""
                WITH gone AS (DELETE FROM goodsyard.job WHERE id = :id RETURNING *),
                counted AS (
                    UPDATE goodsyard.job SET waits_for = waits_for - 1
                     WHERE id IN (SELECT child FROM goodsyard.dependency WHERE parent = :id))
                INSERT INTO goodsyard.job_done
                       (id, tenant, kind, state, max_attempts, workflow, payload)
                SELECT id, tenant, kind, 'succeeded', max_attempts, workflow, payload FROM gone"""),
            {"id": UUID(job)},
        )


async def test_a_workflow_is_accepted_once_and_shown_with_its_steps(api: Api) -> None:
    steps = (mail("c", "a", "b"), mail("a", priority=2), mail("b", run_at="2030-01-01T00:00:00Z"))
    workflow = await accepted(api, "k", *steps)
    assert (workflow["state"], workflow["reason"], workflow["more"]) == ("running", None, False)
    by_name = {step["name"]: step for step in workflow["steps"]}
    jobs = {name: step["job"]["id"] for name, step in by_name.items()}
    assert by_name.keys() == {"a", "b", "c"}
    assert sorted(by_name["c"]["after"]) == sorted([jobs["a"], jobs["b"]])
    assert {name: step["waits_for"] for name, step in by_name.items()} == {"a": 0, "b": 0, "c": 2}
    job = (await api.http.get(f"/v1/jobs/{jobs['c']}")).json()
    assert (job["state"], job["workflow"], job["waits_for"]) == ("waiting", workflow["id"], 2)
    assert (await api.http.get(f"/v1/jobs/{jobs['a']}")).json()["priority"] == 2
    again = await hand_in(api, "k", *steps)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json()["workflow"]["id"] == workflow["id"]
    other = await hand_in(api, "k", mail("a"))
    assert other.json()["type"] == "/problems/idempotency-key-reused"
    nameless = await api.http.post("/v1/workflows", json={"steps": [mail("a")]})
    assert nameless.json()["type"] == "/problems/idempotency-key-required"
    assert len((await api.http.get("/v1/jobs")).json()["data"]) == 3


BAD: list[tuple[list[dict[str, Any]], set[str]]] = [
    ([], {"#/steps"}),
    ([mail("a"), mail("a")], {"#/steps/1/name"}),
    ([mail("a", "b")], {"#/steps/0/after/0"}),
    ([mail("a"), mail("b", "a", "a")], {"#/steps/1/after/1"}),
    ([mail("a", "a")], {"#/steps/0/after"}),
    ([mail("x"), mail("a", "x", "b"), mail("b", "a")], {"#/steps/1/after"}),
    ([mail("a", kind="orders.process")], {"#/steps/0/kind"}),
    (
        [mail("a", compensation={"kind": "no.such", "payload": {}})],
        {"#/steps/0/compensation/kind"},
    ),
    (
        [mail("a", payload={}), mail("b", payload={**MAIL, "colour": "red"})],
        {"#/steps/0/payload/to", "#/steps/1/payload/colour"},
    ),
    (
        [mail("a", compensation={"kind": "notifications.email", "payload": {}})],
        {"#/steps/0/compensation/payload/to"},
    ),
    ([mail("a", run_at="tomorrow")], {"#/steps/0/run_at"}),
    ([mail("")], {"#/steps/0/name"}),
    ([mail("a", unique_key="x")], {"#/steps/0/unique_key"}),
    ([mail("a", payload={**MAIL, "body": "\0"})], {"#/steps/0/payload/body"}),
]


async def test_steps_that_make_no_workflow_are_told_where_and_nothing_is_staged(api: Api) -> None:
    for steps, pointers in BAD:
        answer = await hand_in(api, "k", *steps)
        assert answer.status_code == 422, (steps, answer.text)
        told = {error["pointer"] for error in answer.json()["errors"]}
        assert pointers <= told, (steps, answer.text)
    assert (await api.http.get("/v1/jobs")).json()["data"] == []
    assert (await api.http.get("/v1/workflows")).json()["data"] == []


async def test_a_thousand_steps_are_taken_and_one_more_is_not(api: Api) -> None:
    steps = [mail("first"), *(mail(f"s{n}", "first") for n in range(MOST_STEPS_IN - 2))]
    last = mail("last", *(f"s{n}" for n in range(MOST_STEPS_IN - 2)))
    workflow = await accepted(api, "k", *steps, last)
    assert len(workflow["steps"]) == MOST_STEPS_IN
    assert workflow["steps"][-1]["waits_for"] == MOST_STEPS_IN - 2
    refused = await hand_in(api, "j", *steps, last, mail("more"))
    assert refused.json()["errors"][0]["pointer"] == "#/steps"


async def test_each_kind_of_a_workflow_takes_its_scope(api: Api) -> None:
    report = {
        "kind": "payments.reconcile",
        "payload": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
    }
    body = {"steps": [mail("a", compensation=report)]}
    for scopes, missing in (
        (["jobs:admin"], "jobs:submit:notifications.email"),
        (["jobs:submit:notifications.email"], "jobs:submit:payments.reconcile"),
        (["jobs:submit:notifications.email", "jobs:submit:payments.reconcile"], None),
        (["jobs:submit:*"], None),
    ):
        headers = await api.caller(*scopes) | {"Idempotency-Key": " ".join(scopes)}
        answer = await api.http.post("/v1/workflows", json=body, headers=headers)
        assert answer.status_code == (202 if missing is None else 403), scopes
        assert answer.json().get("scope") == missing


async def test_a_workflow_says_how_far_it_is(api: Api) -> None:
    undo = {"kind": "notifications.email", "payload": MAIL}
    workflow = await accepted(api, "k", mail("a", compensation=undo), mail("b", "a"))
    a, b = (step["job"]["id"] for step in workflow["steps"])
    await end(api, a, "succeeded")
    assert (await shown(api, workflow))["state"] == "running"
    await end(api, b, "dead")
    assert (await shown(api, workflow))["state"] == "blocked"
    assert (await api.http.post(f"/v1/jobs/{b}/retry")).status_code == 202
    assert (await shown(api, workflow))["state"] == "running"
    cancelled = await api.http.post(f"{workflow['href']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "undoing")
    undone = await shown(api, workflow)
    assert undone["reason"] == "cancelled"
    assert [step["job"]["state"] for step in undone["steps"]] == ["succeeded", "cancelled"]
    undoing = await shown(api, {"href": f"/v1/workflows/{undone['undone_by']}"})
    assert (undoing["undoes"], undoing["state"]) == (workflow["id"], "running")
    assert [step["job"]["id"] for step in undoing["steps"]] == [undone["steps"][0]["undone_by"]]
    await end(api, undoing["steps"][0]["job"]["id"], "dead")
    assert (await shown(api, workflow))["state"] == "blocked"
    await api.http.post(f"/v1/jobs/{undoing['steps'][0]['job']['id']}/retry")
    await end(api, undoing["steps"][0]["job"]["id"], "succeeded")
    assert (await shown(api, workflow))["state"] == "abandoned"
    whole = await accepted(api, "another", mail("a"))
    await end(api, whole["steps"][0]["job"]["id"], "succeeded")
    assert (await shown(api, whole))["state"] == "succeeded"


async def test_a_workflow_is_called_off_once_and_says_what_can_not_be(api: Api) -> None:
    workflow = await accepted(api, "k", mail("a"), mail("b", "a"))
    for _ in range(2):
        answer = await api.http.post(f"{workflow['href']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "abandoned")
    async with api.sessions.begin() as tx:
        audit = (await tx.execute(text("SELECT actor, action, target FROM goodsyard.audit"))).all()
    assert [tuple(row) for row in audit] == [("admin of tests", "workflow.cancel", workflow["id"])]
    done = await accepted(api, "done", mail("a"))
    await end(api, done["steps"][0]["job"]["id"], "succeeded")
    refused = await api.http.post(f"{done['href']}/cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/workflow-state")
    assert (await api.http.post(f"/v1/workflows/{uuid4()}/cancel")).status_code == 404
    assert (await api.http.get(f"/v1/workflows/{uuid4()}")).status_code == 404


async def test_a_step_is_not_called_off_alone(api: Api) -> None:
    workflow = await accepted(api, "k", mail("a"))
    refused = await api.http.post(f"{workflow['steps'][0]['job']['href']}/cancel")
    assert refused.status_code == 409
    assert f"step of workflow {workflow['id']}" in refused.json()["detail"]


async def test_another_tenants_workflow_is_not_there(api: Api) -> None:
    workflow = await accepted(api, "k", mail("a"))
    other = await api.caller("admin", tenant="elsewhere")
    for call in (
        api.http.get(workflow["href"], headers=other),
        api.http.post(f"{workflow['href']}/cancel", headers=other),
    ):
        assert (await call).status_code == 404
    assert (await api.http.get("/v1/workflows", headers=other)).json()["data"] == []
    job = {"kind": "notifications.email", "payload": MAIL}
    theirs = await api.http.post(
        "/v1/jobs",
        json={**job, "after": [workflow["steps"][0]["job"]["id"]]},
        headers=other | {"Idempotency-Key": "k"},
    )
    assert theirs.json()["errors"][0]["pointer"] == "#/after/0"


async def test_workflows_are_listed_page_by_page_newest_first(api: Api) -> None:
    handed_in = [(await accepted(api, str(n), mail("a")))["id"] for n in range(3)]
    first = (await api.http.get("/v1/workflows", params={"limit": 2})).json()
    assert [one["id"] for one in first["data"]] == handed_in[:0:-1]
    assert "steps" not in first["data"][0]
    cursor = {"cursor": first["next_cursor"], "limit": "2"}
    rest = (await api.http.get("/v1/workflows", params=cursor)).json()
    assert ([one["id"] for one in rest["data"]], rest["next_cursor"]) == (handed_in[:1], None)


async def submit(api: Api, key: str, **fields: object) -> httpx.Response:
    body = {"kind": "notifications.email", "payload": MAIL, **fields}
    return await api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


async def test_a_job_waits_for_those_it_names(api: Api) -> None:
    first = (await submit(api, "a")).json()["job"]
    child = await submit(api, "b", after=[first["id"], first["id"]])
    assert child.status_code == 202, child.text
    job = (await api.http.get(child.headers["Location"])).json()
    assert (job["state"], job["waits_for"]) == ("waiting", 1)
    replay = await submit(api, "b", after=[first["id"], first["id"]])
    assert replay.json()["job"]["id"] == job["id"]
    assert replay.headers["Idempotent-Replayed"] == "true"
    workflow = await shown(api, {"href": f"/v1/workflows/{job['workflow']}"})
    assert [step["job"]["id"] for step in workflow["steps"]] == [first["id"], job["id"]]
    assert [step["name"] for step in workflow["steps"]] == [None, None]


async def test_whom_a_job_can_not_wait_for_is_told_where(api: Api) -> None:
    mine = (await submit(api, "a")).json()["job"]["id"]
    order_job = (await api.submit(order_for(await api.user()))).json()["job"]["id"]
    cancelled = (await submit(api, "c")).json()["job"]
    await api.http.post(f"{cancelled['href']}/cancel")
    for after, place, why in (
        ([mine, str(uuid4())], "#/after/1", "not there"),
        ([order_job], "#/after/0", "orders.process"),
        ([mine, cancelled["id"]], "#/after/1", "cancelled"),
        (["x"], "#/after/0", "UUID"),
    ):
        answer = await submit(api, "k", after=after)
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert error["pointer"] == place
        assert why in error["detail"]
    both = await submit(api, "k", after=[mine], unique_key="daily")
    assert both.json()["errors"][0]["pointer"] == "#/unique_key"
    assert (await api.http.get(f"/v1/jobs/{mine}")).json()["workflow"] is None


@pytest.mark.in_process("shortens the patience of the process")
async def test_a_parent_that_is_busy_for_long_puts_its_child_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.succession.TRIES", 2)
    mine = (await submit(api, "a")).json()["job"]["id"]
    async with api.sessions.begin() as worker:
        lock = "SELECT FROM goodsyard.job WHERE id = :id FOR UPDATE"
        await worker.execute(text(lock), {"id": UUID(mine)})
        busy = await submit(api, "b", after=[mine])
    assert (busy.status_code, busy.json()["type"]) == (503, "/problems/busy")
    assert (await submit(api, "b", after=[mine])).status_code == 202


async def test_the_erased_are_in_no_workflow_that_goes_on(api: Api) -> None:
    """Neither in a step that would be sent, nor in what would make up for one."""
    user = await api.user(email="ann@example.com")
    theirs = {**MAIL, "to": "Ann@example.com"}
    undo = {"kind": "notifications.email", "payload": theirs}
    step_of = await accepted(api, "a", mail("a", payload=theirs), mail("b", "a"))
    undone = await accepted(api, "b", mail("a", compensation=undo), mail("b", "a"))
    await end(api, undone["steps"][0]["job"]["id"], "succeeded")
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204
    gone = await shown(api, step_of)
    assert (gone["state"], gone["reason"]) == ("abandoned", "erased")
    assert (await shown(api, undone))["state"] == "running"
    await api.http.post(f"{undone['href']}/cancel")
    assert (await shown(api, undone))["state"] == "abandoned"
    async with api.sessions.begin() as tx:
        found = "SELECT FROM goodsyard.job WHERE payload::text ILIKE '%ann@example.com%'"
        assert (await tx.execute(text(found))).all() == []
