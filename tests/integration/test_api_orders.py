"""Orders over HTTP: accepted once, refused in words, replayed, followed, called off."""

from __future__ import annotations

from tests.integration.conftest import Api, order_for


async def test_an_accepted_order_is_answered_with_its_job_and_its_place(api: Api) -> None:
    user = await api.user()
    answer = await api.submit(order_for(user, metadata={"cart": [1, 2]}))
    assert answer.status_code == 202, answer.text
    order, job = answer.json()["order"], answer.json()["job"]
    assert answer.headers["Location"] == order["href"] == f"/v1/orders/{order['id']}"
    assert order["status"] == "pending"
    assert order["total"] == {"amount": 2_500, "currency": "EUR"}
    assert job == {"id": job["id"], "state": "waiting", "href": f"/v1/jobs/{job['id']}"}
    assert (await api.http.get(order["href"])).json() == order | {}
    shown = (await api.http.get(job["href"])).json()
    assert (shown["kind"], shown["subject"]) == ("orders.process", order["id"])
