"""The ways a call fails, each as the answer that makes Stripe's own clients raise the right error.

Source: https://docs.stripe.com/api/errors and https://docs.stripe.com/error-codes.
"""

from __future__ import annotations


class GatewayError(Exception):
    """A call was refused before it took effect: nothing is charged and nothing is remembered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}
        fields = {"type": kind, "code": code, "message": message, "param": param}
        self.body: dict[str, object] = {
            "error": {name: value for name, value in fields.items() if value is not None}
        }


def unauthenticated() -> GatewayError:
    """No API key came with the call."""
    refusal = GatewayError(
        401,
        "You did not provide an API key. Send it in the Authorization header, as Bearer or as the "
        "user name of Basic.",
    )
    refusal.headers["WWW-Authenticate"] = 'Basic realm="Stripe"'
    return refusal


def invalid(message: str, *, code: str, param: str) -> GatewayError:
    """A parameter is missing, unknown or not acceptable."""
    return GatewayError(400, message, code=code, param=param)


def missing_resource(what: str, name: str, *, param: str, status: int = 404) -> GatewayError:
    """There is no such thing; 404 where it is named by the path, 400 where by a parameter."""
    return GatewayError(status, f"No such {what}: '{name}'", code="resource_missing", param=param)


def unknown_address(method: str, path: str) -> GatewayError:
    """The sandbox speaks a subset; this is outside it."""
    return GatewayError(404, f"Unrecognized request URL ({method}: {path}).")


def key_reused(key: str) -> GatewayError:
    """The key belongs to a call with other parameters or to another address."""
    return GatewayError(
        400,
        "Keys for idempotent requests can only be used with the parameters and the address they "
        f"were first used with. Use a key other than '{key}' to make a different request.",
        kind="idempotency_error",
    )


def key_in_use(key: str) -> GatewayError:
    """The first call with this key is still under way."""
    return GatewayError(
        409,
        f"Another request with the idempotency key '{key}' is still in progress. Try again later.",
        code="idempotency_key_in_use",
    )


def rate_limited(retry_after: int) -> GatewayError:
    """Too many calls; ``retry_after`` in seconds."""
    refusal = GatewayError(429, "Request rate limit exceeded.", code="rate_limit")
    refusal.headers["Retry-After"] = str(retry_after)
    return refusal


def server_error() -> GatewayError:
    """Something broke on the gateway's side."""
    return GatewayError(500, "An unknown error occurred on the gateway.", kind="api_error")
