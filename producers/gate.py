"""Lets a request under ``/v1`` in: who asks, then how often, before any of its body is read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from commerce.accounts.plans import STANDARD, UNLIMITED
from producers import problems
from producers.problems import ProblemError
from producers.rate_limit import Allowance
from producers.services import Services
from producers.settings import Group

SIGN_IN = "/v1/auth/token"
"""Where people become somebody: strangers may ask there."""
GATEWAY_EVENTS = "/v1/gateway/events"
"""Where the gateway's events come in: their signature, which the route checks, says who sends."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}  # RFC 6750, section 3
_READS = frozenset({"GET", "HEAD"})


async def admit(scope: Scope, services: Services) -> None:
    """Put the request's principal and allowance in its state.

    Without a valid key or token it is counted by its address instead, and refused: guessing them
    is slow. Who signs in is counted by address too, more strictly, and has no principal yet.

    Raises:
        ProblemError: 401 without a valid key or token, 429 for one request too many.
        sqlalchemy.exc.DBAPIError: who asks isn't known yet and can't be looked up.
    """
    state = scope.setdefault("state", {})
    if scope["path"] == SIGN_IN:
        allowance = state["allowance"] = await services.sign_in_rate.hit(address_of(scope))
        refuse_excess(allowance)
        return
    if scope["path"] == GATEWAY_EVENTS:
        state["allowance"] = services.failures_rate.untouched  # only failures count
        return
    principal = await services.keys.open(Headers(scope=scope).get("authorization", ""))
    if principal is None:
        allowance = state["allowance"] = await services.failures_rate.hit(address_of(scope))
        refuse_excess(allowance)
        raise ProblemError(problems.UNAUTHENTICATED, headers=_CHALLENGE)
    state["principal"] = principal
    group = _group_of(scope)
    if principal.plan == UNLIMITED:
        state["allowance"] = services.rates[STANDARD, group].untouched
    else:
        rate = services.rates[principal.plan, group]
        allowance = state["allowance"] = await rate.hit(principal.caller)
        refuse_excess(allowance)


def address_of(scope: Scope) -> str:
    """Return who is counted where nobody is known: a sender's address, as one of our own saw it."""
    # The peer's own: X-Forwarded-For is whatever a client writes, unless the server was told to
    # trust its proxy (uvicorn --proxy-headers) and has put the client here.
    client = scope.get("client")
    return f"address:{client[0]}" if client else "address:unknown"


def refuse_excess(allowance: Allowance) -> None:
    """Refuse a request that is one too many.

    Raises:
        ProblemError: 429, with what to wait.
    """
    if not allowance.granted:
        raise ProblemError(
            problems.RATE_LIMITED,
            f"{allowance.limit} requests are allowed; the next one in {allowance.wait_seconds} s.",
            headers={"Retry-After": str(allowance.wait_seconds)},
        )


def _group_of(scope: Scope) -> Group:
    if scope["method"] in _READS:
        return "read"
    return "bulk" if scope["path"].endswith("/bulk") else "write"
