"""Lets a request under ``/v1`` in: who asks, then how often, before any of its body is read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from producers import problems
from producers.problems import ProblemError
from producers.rate_limit import Allowance
from producers.services import Services

_CHALLENGE = {"WWW-Authenticate": "Bearer"}  # RFC 6750, section 3


async def admit(scope: Scope, services: Services) -> None:
    """Put the request's principal and allowance in its state.

    Without a valid key it is counted by its address instead, and refused: guessing keys is slow.

    Raises:
        ProblemError: 401 without a valid key, 429 for one request too many.
        sqlalchemy.exc.DBAPIError: the key isn't known yet and can't be looked up.
    """
    state = scope.setdefault("state", {})
    principal = await services.keys.open(Headers(scope=scope).get("authorization", ""))
    if principal is None:
        allowance = state["allowance"] = await services.failures_rate.hit(
            "address", _address(scope)
        )
        _refuse_excess(allowance)
        raise ProblemError(problems.UNAUTHENTICATED, headers=_CHALLENGE)
    state["principal"] = principal
    if principal.unlimited:
        state["allowance"] = services.rate.untouched
    else:
        allowance = state["allowance"] = await services.rate.hit("key", principal.key_id)
        _refuse_excess(allowance)


def _address(scope: Scope) -> str:
    # The peer's own: X-Forwarded-For is whatever a client writes, unless the server was told to
    # trust its proxy (uvicorn --proxy-headers) and has put the client here.
    client = scope.get("client")
    return client[0] if client else "unknown"


def _refuse_excess(allowance: Allowance) -> None:
    if not allowance.granted:
        raise ProblemError(
            problems.RATE_LIMITED,
            f"{allowance.limit} requests are allowed; the next one in {allowance.wait_seconds} s.",
            headers={"Retry-After": str(allowance.wait_seconds)},
        )
