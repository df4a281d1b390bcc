"""What every answer owes its caller, and what no request may do to the process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from producers import bodies
from producers.problems import TYPES
from tests.integration.conftest import Api, order_for

PROBLEM = "application/problem+json"


def _is_problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """Check what all problems have, and return this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == status
    assert problem["instance"] == answer.request.url.path
    assert problem["title"]
    assert problem["detail"]
    return problem


@pytest.mark.live
async def test_every_answer_has_its_headers(api: Api) -> None:
    for path in ("/v1/orders", "/v1/nowhere", "/healthz", "/problems/validation", "/docs"):
        headers = (await api.http.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "DENY"
        assert "Content-Security-Policy" in headers
        assert len(headers["X-Request-Id"]) == 32
        assert "Access-Control-Allow-Origin" not in headers
        if path.startswith("/v1"):
            assert headers["Cache-Control"] == "no-store"
            for name in ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"):
                assert headers[name].isdecimal(), path


async def test_a_sane_request_id_is_kept_and_another_replaced(api: Api) -> None:
    kept = await api.http.get("/healthz", headers={"X-Request-Id": "till-7:2026"})
    assert kept.headers["X-Request-Id"] == "till-7:2026"
    for bad in ("two words", "x" * 65, "a\\b"):
        answer = await api.http.get("/healthz", headers={"X-Request-Id": bad})
        assert answer.headers["X-Request-Id"] != bad


async def test_an_unknown_address_and_a_wrong_method_are_problems(api: Api) -> None:
    for path in ("/v1/nowhere", "/nowhere", "/v1/orders/", "/"):
        _is_problem(await api.http.get(path), 404, "not-found")
    for method, path, allowed in (
        ("PUT", "/v1/orders", "GET, POST"),
        ("PATCH", "/v1/users/0198a6b0-0000-7000-8000-000000000000", "DELETE, GET"),
        ("DELETE", "/healthz", "GET"),
        ("OPTIONS", "/v1/stock/CD", "GET, PUT"),
        ("PUT", "/v1/orders/bulk", "POST"),
    ):
        answer = await api.http.request(method, path)
        _is_problem(answer, 405, "method-not-allowed")
        assert answer.headers["Allow"] == allowed
    assert (await api.http.head("/v1/orders")).status_code == 405


@pytest.mark.live
async def test_only_plain_json_is_read(api: Api) -> None:
    async def send(content: bytes, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await api.http.put("/v1/stock/CD", content=content, headers=named)

    good = b'{"on_hand": 1}'
    assert (await send(good, Content_Type="application/json; charset=UTF-8")).status_code == 200
    assert (await send(good, Content_Type="application/goods+json")).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"):
        _is_problem(await send(good, Content_Type=kind), 415, "unsupported-media-type")
    _is_problem(await send(good), 415, "unsupported-media-type")
    zipped = await send(good, Content_Type="application/json", Content_Encoding="gzip")
    _is_problem(zipped, 415, "unsupported-media-type")


BROKEN = [
    b"",
    b"{",
    b'{"on_hand": NaN}',
    b'{"on_hand": Infinity}',
    b'{"on_hand": 1e999}',
    b'{"on_hand": ' + b"9" * 5_000 + b"}",
    b"[" * 60_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"\xff\xfe{}",
    b'{"on_hand": 1} {}',
    b'{"\\ud800": {',
]

WRONG = [
    b"null",
    b"[]",
    b'"x"',
    b"{}",
    b"[" * 900 + b"]" * 900,
    b'{"on_hand": null}',
    b'{"on_hand": 1e3}',
    b'{"on_hand": 1.0}',
    b'{"on_hand": -0.0}',
    b'{"on_hand": 99999999999999999999}',
    b'{"on_hand": 9223372036854775807}',
    b'{"on_hand": 1, "\\u0000": 2}',
    b'{"on_hand": 1, "\\ud800": 2}',
    b'{"a": ' * 900 + b'"\\u0000"' + b"}" * 900,
]


@pytest.mark.live
async def test_no_body_does_harm(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    for content in BROKEN:
        answer = await api.http.put("/v1/stock/CD", content=content, headers=headers)
        _is_problem(answer, 400, "malformed-json")
    for content in WRONG:
        answer = await api.http.put("/v1/stock/CD", content=content, headers=headers)
        problem = _is_problem(answer, 422, "validation")
        assert all(error["pointer"].startswith("#") for error in problem["errors"])
    assert (await api.http.get("/v1/stock/CD")).status_code == 404


async def test_a_body_is_read_up_to_its_limit(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    good = b'{"on_hand": 1}'
    fits = good.ljust(64 * 1024)
    answer = await api.http.put("/v1/stock/CD", content=fits, headers=headers)
    assert answer.status_code == 200

    async def streamed() -> AsyncIterator[bytes]:  # without a Content-Length
        for _ in range(70):
            yield b" " * 1024

    for content in (fits + b" ", streamed()):
        answer = await api.http.put("/v1/stock/CD", content=content, headers=headers)
        _is_problem(answer, 413, "body-too-large")


@pytest.mark.in_process("changes what the process goes by")
async def test_a_body_that_never_ends_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {"Content-Type": "application/json"}
    answer = await api.http.put("/v1/stock/CD", content=endless(), headers=headers)
    _is_problem(answer, 408, "body-too-slow")


async def test_what_postgres_cannot_store_is_refused_in_paths_and_queries_too(api: Api) -> None:
    for path in ("/v1/stock/a%00b", "/v1/jobs?kind=%00", "/v1/jobs?queue=%00", "/v1/api-keys/%00"):
        answer = await api.http.request("DELETE" if "keys" in path else "GET", path)
        assert answer.status_code in {404, 422}, path
        assert answer.headers["Content-Type"] == PROBLEM


async def test_each_type_of_problem_explains_itself(api: Api) -> None:
    for name, kind in TYPES.items():
        shown = (await api.http.get(kind.uri)).json()
        assert shown == {
            "type": f"/problems/{name}",
            "status": kind.status,
            "title": kind.title,
            "help": kind.help,
        }
    _is_problem(await api.http.get("/problems/none"), 404, "not-found")


@pytest.mark.in_process("changes what the process goes by")
async def test_a_failure_of_ours_is_a_problem_and_tells_no_secret(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("producers.routes.stock.get_shelf", fail)
    answer = await api.http.get("/v1/stock/CD")
    _is_problem(answer, 500, "internal-error")
    assert "hunter2" not in answer.text
    assert answer.headers["RateLimit-Limit"]


async def test_the_document_tells_of_every_call_and_refusal(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operations = [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert operations
    without_key = set()
    for name, operation in operations:
        assert operation.get("description"), name
        if "/v1/" in name:
            assert {"429", "500", "503"} <= operation["responses"].keys(), name
        if "security" in operation:
            assert {"401", "403"} <= operation["responses"].keys(), name
        elif "/v1/" in name:
            without_key.add(name)
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == [PROBLEM], name
    assert without_key <= {"post /v1/auth/token", "post /v1/gateway/events"}
    assert "orders:write" in document["paths"]["/v1/orders"]["post"]["security"][0]["Bearer"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_the_document_tells_of_the_headers_of_an_answer(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    of_status = {"401": "WWW-Authenticate", "429": "Retry-After", "503": "Retry-After"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            keyed = any(p["name"] == "Idempotency-Key" for p in operation.get("parameters", ()))
            for status, response in operation["responses"].items():
                expected = {"X-Request-Id"}
                if path.startswith("/v1/"):
                    expected |= {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
                if status in of_status:
                    expected.add(of_status[status])
                if keyed and status.startswith("2"):
                    expected.add("Idempotent-Replayed")
                again = path.endswith(("/retry", "/replay"))
                if keyed and status in {"201", "202"} and not again:
                    expected.add("Location")
                if keyed and status == "409":
                    expected.add("Retry-After")
                assert expected <= response["headers"].keys(), (method, path, status)


async def test_the_docs_load_nothing_from_elsewhere(api: Api) -> None:
    page = await api.http.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for place in loaded:
        assert place.startswith("/")
        assert (await api.http.get(place)).status_code == 200


@pytest.mark.in_process("opens further connections to the application itself")
async def test_health_readiness_and_metrics_ask_for_no_key(api: Api) -> None:
    await api.submit(order_for(await api.user()))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api.app), base_url="http://api.test"
    ) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        ready = (await http.get("/readyz")).json()
        assert ready == {"status": "ok", "postgres": "ok", "redis": "ok"}
        metrics = await http.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain")
    accepted = 'goodsyard_http_request_seconds_count{method="POST",route="/v1/orders",status="202"}'
    assert f"{accepted} 1.0" in metrics.text
    assert 'goodsyard_jobs{kind="orders.process",state="waiting"} 1.0' in metrics.text
