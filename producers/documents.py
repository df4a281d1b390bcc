"""The OpenAPI document tells of every status a call can answer with, its problems among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from producers import problems
from producers.envelope import VERSIONED
from producers.idempotency import HEADER
from producers.order_shapes import BulkOrderIn
from producers.problems import MEDIA_TYPE, Problem, ProblemType, refusals

_EVERYWHERE = (problems.INTERNAL, problems.UNAVAILABLE)
_OF_ADMISSION = (problems.UNAUTHENTICATED, problems.MISSING_SCOPE)
_OF_BODIES = (
    problems.BODY_TOO_SLOW,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
)
_OF_JSON = (problems.MALFORMED_JSON, problems.VALIDATION)
_OF_PARAMETERS = {
    "path": (problems.NOT_FOUND,),
    "query": (problems.VALIDATION,),
    "header": (problems.KEY_REQUIRED, problems.IN_FLIGHT, problems.KEY_REUSED),
}

_OF_RATES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_BY_STATUS = {
    "401": ("WWW-Authenticate",),
    "405": ("Allow",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_HEADERS = {
    "X-Request-Id": _header("The request's own, if it sent a sane one: our logs have it too."),
    "RateLimit-Limit": _header("Requests that are allowed in the window.", "integer"),
    "RateLimit-Remaining": _header("Requests that are left.", "integer"),
    "RateLimit-Reset": _header("Seconds until more are allowed.", "integer"),
    "Retry-After": _header("Seconds to wait before the next try.", "integer"),
    "WWW-Authenticate": _header("`Bearer`: what to authenticate with (RFC 6750)."),
    "Allow": _header("The methods that the address takes."),
    "Location": _header("The absolute path of what was made, or of where to follow it."),
    "Idempotent-Replayed": _header("`true` if an equal request was answered before."),
}

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
    for path, operation in _operations(document):
        _tell_refusals(path, operation)
        _tell_headers(path, operation)
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _tell_refusals(path: str, operation: dict[str, Any]) -> None:
    """Add the problems that a call shares with others to those that its route declares."""
    responses = operation["responses"]
    responses.pop("422", None)  # the framework's own shape, which isn't ours
    shared = refusals(*_shared(path, operation))
    for status in {int(status) for status in responses if int(status) >= 400} | shared.keys():  # noqa: PLR2004 - HTTP's
        declared = responses.get(str(status), {})
        told = [r["description"] for r in (declared, shared.get(status)) if r]
        responses[str(status)] = {
            **declared,
            "description": "; ".join(told),
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
        }


def _tell_headers(path: str, operation: dict[str, Any]) -> None:
    """Add the headers that answers have by their status and by what the call takes."""
    takes_key = any(parameter["name"] == HEADER for parameter in operation.get("parameters", ()))
    for status, response in operation["responses"].items():
        names = ["X-Request-Id", *_BY_STATUS.get(status, ())]
        if path.startswith(f"{VERSIONED}/"):
            names += _OF_RATES
        if takes_key and status.startswith("2"):
            names.append("Idempotent-Replayed")
        if takes_key and status in {"201", "202"} and not path.endswith(("/retry", "/replay")):
            names.append("Location")
        if takes_key and status == "409":
            names.append("Retry-After")
        response["headers"] = {name: _HEADERS[name] for name in names} | response.get("headers", {})


def _shared(path: str, operation: dict[str, Any]) -> Iterator[ProblemType]:
    yield from _EVERYWHERE
    if path.startswith(f"{VERSIONED}/"):
        yield problems.RATE_LIMITED
    if "security" in operation:
        yield from _OF_ADMISSION
    if "requestBody" in operation:
        yield from _OF_BODIES
        if "application/json" in operation["requestBody"]["content"]:
            yield from _OF_JSON
    for source in {
        parameter["in"]
        for parameter in operation.get("parameters", ())
        if parameter["in"] != "header" or parameter["name"] == HEADER
    }:
        yield from _OF_PARAMETERS[source]
