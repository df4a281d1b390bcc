"""The engine, and the API in process or live, on a test's own database and Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from commerce.accounts.keys import create_api_key
from goodsyard.database import Sessions, open_engine, session_factory
from ops.roles import Role
from producers.app import create_app
from producers.services import Services
from producers.settings import ApiSettings
from tests.harness.live import LiveServers
from tests.harness.logins import login
from tests.saga import SECRET_KEY, Saga, Sandbox, open_saga, run_sandbox
from tests.yard import Yard, open_yard

_numbers = count(1)


@dataclass
class Api:
    """A caller with the scope ``admin``, and what tests want to know of the process behind it."""

    http: httpx.AsyncClient
    process: FastAPI | None
    """The application, where it runs in ours: a live server's can't be reached into."""
    sessions: Sessions

    @property
    def app(self) -> FastAPI:
        """The application itself, for tests that are marked ``in_process``."""
        assert self.process is not None, "a test of this kind is marked in_process, with its reason"
        return self.process

    @property
    def services(self) -> Services:
        """What the process works with."""
        services: Services = self.app.state.services
        return services

    async def key(self, *scopes: str, tenant: str = "shop", unlimited: bool = True) -> str:
        """Return a new API key."""
        async with self.sessions.begin() as tx:
            return await create_api_key(tx, tenant, "tests", scopes, unlimited=unlimited)

    async def caller(
        self, *scopes: str, tenant: str = "shop", unlimited: bool = True
    ) -> dict[str, str]:
        """Return the headers of another caller."""
        key = await self.key(*scopes, tenant=tenant, unlimited=unlimited)
        return {"Authorization": f"Bearer {key}"}

    async def user(self, **fields: object) -> str:
        """Add a user and return its id."""
        number = next(_numbers)
        body = {"email": f"user{number}@example.com", "username": f"user{number}", **fields}
        answer = await self.http.post("/v1/users", json=body)
        assert answer.status_code == 201, answer.text
        user: str = answer.json()["id"]
        return user

    async def submit(self, order: dict[str, Any], key: str | None = None) -> httpx.Response:
        """Hand an order in."""
        key = key or f"key-{next(_numbers)}"
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return await self.http.post("/v1/orders", content=json.dumps(order), headers=headers)


def order_for(user: str, **fields: object) -> dict[str, Any]:
    """Return an order of two pieces at 12.50 EUR."""
    return {
        "user_id": user,
        "currency": "EUR",
        "lines": [{"sku": "CD", "quantity": 2, "unit_amount": 1_250}],
        "payment_method": "pm_card_visa",
        **fields,
    }


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Log tracebacks as Python prints them: with all local variables one can take seconds."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )


@pytest.fixture
def api_settings(database_url: str, redis_url: str) -> ApiSettings:
    """What the API reads from its environment; it has a database role that may do no more."""
    database_url = login(database_url, Role.API)
    settings = {"database_url": database_url, "redis_url": redis_url, "secret_key": SECRET_KEY}
    return ApiSettings.model_validate(settings)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask a live server too what is marked ``live``, or with ``--live`` it alone, whatever can."""
    if "api" not in metafunc.fixturenames:
        return
    apart = metafunc.definition.get_closest_marker("in_process")
    if metafunc.config.getoption("--live"):
        marks = [pytest.mark.skip(reason=f"in process only: it {apart.args[0]}")] if apart else []
        metafunc.parametrize("api", [pytest.param("live", marks=marks)], indirect=True)
    elif metafunc.definition.get_closest_marker("live"):
        metafunc.parametrize("api", ["in process", "live"], indirect=True)


@pytest.fixture(scope="session")
def live_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServers]:
    """API processes, started when they are first asked for."""
    with LiveServers(tmp_path_factory.mktemp("live")) as servers:
        yield servers


@pytest.fixture
async def api(
    request: pytest.FixtureRequest,
    api_settings: ApiSettings,
    sessions: Sessions,
    live_servers: LiveServers,
) -> AsyncIterator[Api]:
    """The API, started, and a caller who may do everything in the tenant ``shop``."""
    async with sessions.begin() as tx:
        key = await create_api_key(tx, "shop", "admin of tests", ["admin"], unlimited=True)
    called: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}, "timeout": 40}
    if getattr(request, "param", "in process") == "live":
        async with httpx.AsyncClient(base_url=live_servers.url(api_settings), **called) as http:
            yield Api(http, None, sessions)
        return
    app = create_app(api_settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api.test", **called
        ) as http,
    ):
        yield Api(http, app, sessions)


@pytest.fixture
async def yard(database_url: str, redis_url: str) -> AsyncIterator[Yard]:
    """The engine, with two kinds of job whose effects can be counted."""
    engine = open_engine(database_url, pool_size=10, application_name="tests")
    async with open_yard(session_factory(engine), redis_url) as opened:
        yield opened
    await engine.dispose()


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One gateway and mail sink for all tests; each knows its own charges and mails."""
    with run_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
async def saga(yard: Yard, database_url: str, sandbox: Sandbox) -> AsyncIterator[Saga]:
    """A shop whose orders move on step by step; its jobs may do what a worker may."""
    engine = open_engine(login(database_url, Role.WORKER), pool_size=10, application_name="tests")
    async with open_saga(yard, sandbox, session_factory(engine)) as opened:
        yield opened
    await engine.dispose()
