"""Turns whatever went wrong into the problem the caller is told, and tells ours to the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from goodsyard.patience import is_outage
from goodsyard.request_keys import KeyInFlightError
from producers import problems
from producers.idempotency import HEADER
from producers.problems import ProblemError, not_found, pointer

RETRY_AFTER_SECONDS = "2"
"""What a client is asked to wait while Postgres is away: it restarts in about as long."""

# insufficient resources (disk, memory, connections); statement timeout. Over with nothing kept, and
# worth another try, as the next: lock timeout; serialization failure; deadlock.
_PASSING = ("53", "57014")
_CONFLICTS = ("55P03", "40001", "40P01")

_log = structlog.get_logger(__name__)


def problem_of(error: Exception) -> ProblemError:
    """Return what the caller is told of ``error``."""
    match error:
        case ProblemError():
            return error
        case KeyInFlightError():
            return ProblemError(problems.IN_FLIGHT, headers={"Retry-After": "1"})
        case DBAPIError() if _state(error).startswith(_CONFLICTS):
            return ProblemError(problems.BUSY, headers={"Retry-After": "1"})
        case PoolTimeoutError() | DBAPIError() if _is_passing(error):
            _log.warning("postgres.away", error=f"{type(error).__name__}: {error}")
            return ProblemError(problems.UNAVAILABLE, headers={"Retry-After": RETRY_AFTER_SECONDS})
        case _:
            _log.error("request.failed", exc_info=error)
            return ProblemError(problems.INTERNAL)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, PoolTimeoutError) or is_outage(error):
        return True
    return _state(error).startswith(_PASSING)


def _state(error: Exception) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def install(app: FastAPI) -> None:
    """Let ``app`` answer the framework's own refusals as problems too."""
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer_problem(request: Request, error: Exception) -> Response:
    return problem_of(error).response(request.url.path)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return _of_validation(errors).response(request.url.path)


async def _answer_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 0
    if status == problems.METHOD_NOT_ALLOWED.status:
        allowed = ", ".join(sorted(set(_methods(request))))
        problem = ProblemError(
            problems.METHOD_NOT_ALLOWED,
            f"{request.method} does not work here; {allowed} does.",
            headers={"Allow": allowed},
        )
    elif status == problems.NOT_FOUND.status:
        problem = not_found(f"address {request.url.path}")
    else:
        problem = problem_of(error)
    return problem.response(request.url.path)


def _methods(request: Request) -> Iterator[str]:
    """Yield what any route takes at the request's path; the framework tells of the first alone."""
    for route in iter_route_contexts(request.app.routes):
        if route.path_regex.match(request.url.path):
            yield from route.methods or ()


def _of_validation(errors: Sequence[Mapping[str, Any]]) -> ProblemError:
    """Return what a request is told that doesn't fit its declaration (pydantic's errors)."""
    sources = {error["loc"][0] for error in errors}
    names = {str(error["loc"][-1]).lower() for error in errors if error["loc"][0] == "header"}
    if "path" in sources:
        return not_found("such thing: its id has not the form of one")
    if HEADER.lower() in names:
        return ProblemError(problems.KEY_REQUIRED)
    return problems.validation([_place(error) for error in errors])


def invalid_body(error: ValidationError, within: Sequence[str] = ()) -> ProblemError:
    """Return what is told of a body, or of the part ``within`` it, that doesn't fit."""
    return problems.validation(
        [{"pointer": pointer((*within, *e["loc"])), "detail": e["msg"]} for e in error.errors()]
    )


def _place(error: Mapping[str, Any]) -> dict[str, str]:
    source, *location = error["loc"]
    if source == "body":
        return {"pointer": pointer(location), "detail": error["msg"]}
    return {"parameter": str(location[-1]), "detail": error["msg"]}
