"""The OpenAPI document tells of every status a call can answer with, its problems among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from producers.envelope import VERSIONED
from producers.idempotency import HEADER
from producers.order_shapes import BulkOrderIn
from producers.problems import MEDIA_TYPE, TYPES, Problem

_EVERYWHERE = (401, 403, 429, 500, 503)
_WITH_BODY = (400, 408, 413, 415, 422)
_BY_PARAMETER = {"path": (404,), "query": (422,), "header": (400, 409, 422)}
_CONFLICTS = ("/cancel", "/refund", "/retry", "/v1/users", "/v1/stock")

_REF = "#/components/schemas/{model}"


def install(app: FastAPI) -> None:
    """Let ``app`` describe itself so."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    # FastAPI's documented way to extend the document; see its "Extending OpenAPI".
    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    _, ours = models_json_schema(
        [(Problem, "serialization"), (BulkOrderIn, "validation")], ref_template=_REF
    )
    schemas |= ours["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, method, operation in _operations(document):
        for status in sorted(_refusals(path, method, operation)):
            operation["responses"][str(status)] = _problem(status)
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _refusals(path: str, method: str, operation: dict[str, Any]) -> set[int]:
    """Return the statuses with which a call can be refused."""
    operation["responses"].pop("422", None)  # the framework's own shape, which isn't ours
    if not path.startswith(f"{VERSIONED}/"):
        return {503, 500} | ({404} if "{" in path else set())
    statuses = set(_EVERYWHERE)
    if "requestBody" in operation:
        statuses |= set(_WITH_BODY)
    for parameter in operation.get("parameters", ()):
        if parameter["in"] != "header" or parameter["name"] == HEADER:
            statuses |= set(_BY_PARAMETER[parameter["in"]])
    if method != "get" and any(part in path for part in _CONFLICTS):
        statuses.add(409)
    return statuses


def _problem(status: int) -> dict[str, Any]:
    kinds = [kind for kind in TYPES.values() if kind.status == status]
    return {
        "description": "; ".join(f"`{kind.name}`: {kind.title}" for kind in kinds),
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
    }
