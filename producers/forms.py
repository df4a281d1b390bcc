"""Reads forms as bounded as JSON bodies are, and refuses them in the words of OAuth 2.0."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from producers import problems
from producers.bodies import KIB, Handler, read_body, refuse_encodings
from producers.problems import ProblemError

_TYPE = "application/x-www-form-urlencoded"


class FormRequest(Request):
    """A request whose body has been read."""

    def __init__(self, request: Request, raw: bytes) -> None:
        """Carry on with ``request``."""
        super().__init__(request.scope, request.receive)
        self._raw = raw

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes, and the end."""
        yield self._raw
        yield b""


class FormRoute(APIRoute):
    """A route that reads its parameters from a small form (RFC 6749, appendix B)."""

    max_bytes: ClassVar[int] = 4 * KIB

    def get_route_handler(self) -> Handler:
        """Read the body before anything else looks at it."""
        handle = super().get_route_handler()

        async def read_then_handle(request: Request) -> Response:
            refuse_encodings(request)
            raw = await read_body(request, self.max_bytes)
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _TYPE:
                raise ProblemError(
                    problems.UNSUPPORTED_MEDIA_TYPE,
                    f"Send a form, with Content-Type: {_TYPE}.",
                    headers={"Accept": _TYPE},
                )
            try:
                return await handle(FormRequest(request, raw))
            except RequestValidationError as error:
                raise _refusal(error) from error

        return read_then_handle


def _refusal(error: RequestValidationError) -> ProblemError:
    """Return what RFC 6749, section 5.2, has for a form that isn't as it should be."""
    wrong = {str(each["loc"][-1]): each for each in error.errors()}
    name, first = next(iter(wrong.items()))
    unsupported = name == "grant_type" and first["type"] == "literal_error"
    description = f"{name}: {first['msg']}."
    return ProblemError(
        problems.TOKEN_REFUSED,
        description,
        members={
            "error": "unsupported_grant_type" if unsupported else "invalid_request",
            "error_description": description,
        },
    )
