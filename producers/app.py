"""The HTTP API, ready to be served: ``uvicorn --factory producers.app:create_app``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from goodsyard.settings import load
from producers import documents, failures
from producers.envelope import DOCS, Envelope
from producers.routes import (
    api_keys,
    auth,
    cache,
    gateway_events,
    jobs,
    jobs_bulk,
    ledger,
    limits,
    notifications,
    orders,
    payments,
    queues,
    reports,
    root,
    schedules,
    sessions,
    stock,
    users,
    users_bulk,
    webhook_endpoints,
    workflows,
)
from producers.services import open_services
from producers.settings import ApiSettings

_ROUTERS = (
    orders.router,
    orders.bulk_router,
    payments.router,
    ledger.router,
    gateway_events.router,
    jobs.router,
    workflows.router,
    jobs_bulk.router,
    cache.router,
    users.router,
    users_bulk.router,
    stock.router,
    notifications.router,
    webhook_endpoints.router,
    queues.router,
    limits.router,
    schedules.router,
    reports.router,
    auth.router,
    sessions.router,
    api_keys.router,
    root.router,
)


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the application; it opens its connections when it is started.

    Args:
        settings: those of the environment, if not given.
    """
    settings = settings or load(ApiSettings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    app = FastAPIOffline(
        title="Goodsyard",
        version="0.1.0",
        summary="Runs the jobs behind an order, each exactly once.",
        lifespan=lifespan,
        docs_url=DOCS,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in _ROUTERS:
        app.include_router(router)
    failures.install(app)
    documents.install(app)
    app.add_middleware(Envelope)
    return app
