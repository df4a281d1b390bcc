"""Every refusal is ``application/problem+json`` (RFC 9457) and says what to do about it.

A problem's ``type`` is an address on this API, ``/problems/NAME``, which explains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of refusal."""

    name: str
    status: int
    title: str
    help: str
    """What the caller can do, for the page behind ``type``."""

    @property
    def uri(self) -> str:
        """What identifies it in an answer."""
        return f"/problems/{self.name}"


_types: dict[str, ProblemType] = {}


def _define(name: str, status: int, title: str, help_: str) -> ProblemType:
    _types[name] = ProblemType(name, status, title, help_)
    return _types[name]


MALFORMED_JSON = _define(
    "malformed-json", 400, "The body is not JSON", "Send one JSON document in UTF-8 (RFC 8259)."
)
KEY_REQUIRED = _define(
    "idempotency-key-required",
    400,
    "An Idempotency-Key is required",
    "Send the header Idempotency-Key with a value of your own making, at most 255 printable ASCII "
    "characters, the same one whenever you repeat this request: it is then carried out once.",
)
UNAUTHENTICATED = _define(
    "unauthenticated",
    401,
    "No valid API key or access token",
    "Send the header Authorization: Bearer gy_live_… with a key that is neither revoked nor "
    "expired, or Bearer and an access token of the last hour from POST /v1/auth/token.",
)
MISSING_SCOPE = _define(
    "missing-scope",
    403,
    "The API key or the person may not do this",
    "Use a key with the scope that the detail names, or have an administrator give the person a "
    "role that has it.",
)
NO_PERSON = _define(
    "no-person",
    403,
    "This is for people who have signed in",
    "An API key is nobody in particular: get an access token from POST /v1/auth/token.",
)
TOKEN_REFUSED = _define(
    "token-refused",
    400,
    "No access token for this",
    "error and error_description say why, as in RFC 6749, section 5.2. Send a form with "
    "grant_type=password, username (or the e-mail address) and password; with client_id, the "
    "tenant's name, where several tenants know that name.",
)
IDENTITY_UNPROVEN = _define(
    "identity-unproven",
    403,
    "The old password is wrong",
    "Nothing was changed. Send the password that is valid now; if it is forgotten, an "
    "administrator gives another one by PUT /v1/users/{user_id}/password.",
)
LAST_ADMIN = _define(
    "last-admin",
    409,
    "The user is the tenant's only administrator",
    "Nothing was changed. Give another user the role admin first.",
)
NOT_FOUND = _define(
    "not-found", 404, "There is no such thing", "Check the address; ids are per tenant."
)
METHOD_NOT_ALLOWED = _define(
    "method-not-allowed", 405, "Not this method here", "The header Allow lists those that work."
)
MALFORMED_REQUEST = _define(
    "malformed-request",
    400,
    "This is not HTTP/1.1",
    "Nothing was read. The line, the headers or the framing of the request broke RFC 9112.",
)
REQUEST_TOO_SLOW = _define(
    "request-too-slow",
    408,
    "The request took too long to begin",
    "Send the request's line and headers within ten seconds.",
)
HEADERS_TOO_LARGE = _define(
    "headers-too-large", 431, "The headers are too large", "They are limited to 32 KiB together."
)
BODY_TOO_SLOW = _define(
    "body-too-slow", 408, "The body took too long", "Send the whole body within ten seconds."
)
IN_FLIGHT = _define(
    "request-in-flight",
    409,
    "The same request is being carried out",
    "A request with this Idempotency-Key has not ended yet. Repeat it after Retry-After seconds.",
)
EMAIL_TAKEN = _define(
    "email-taken",
    409,
    "The e-mail address is taken",
    "Location is the user who has it; case doesn't count.",
)
USERNAME_TAKEN = _define(
    "username-taken", 409, "The username is taken", "Location is the user who has it."
)
OPEN_ORDERS = _define(
    "open-orders",
    409,
    "The user has orders under way",
    "Wait until they have ended, or cancel them, and delete the user then.",
)
MAIL_UNDER_WAY = _define(
    "mail-under-way",
    409,
    "A mail to the user is being sent",
    "Nothing was erased. Repeat the request after Retry-After seconds: the mail is out by then.",
)
BELOW_RESERVED = _define(
    "below-reserved",
    409,
    "More is reserved than would be on hand",
    "The answer has the figures. Cancel orders first, or count again.",
)
ENDPOINT_DISABLED = _define(
    "endpoint-disabled",
    409,
    "The webhook endpoint is disabled",
    "Mend what answers there, enable the endpoint, and send the request again.",
)
TOO_MANY_ENDPOINTS = _define(
    "too-many-endpoints",
    409,
    "There are as many webhook endpoints as there may be",
    "Delete one that isn't needed any more; one endpoint can take events of several kinds.",
)
JOB_STATE = _define(
    "job-state", 409, "The job's state forbids it", "The detail says which state would allow it."
)
WORKFLOW_STATE = _define(
    "workflow-state",
    409,
    "The workflow's state forbids it",
    "The detail says why, and what would be possible.",
)
ORDER_STATE = _define(
    "order-state", 409, "The order's state forbids it", "The detail says what is possible."
)
PAYMENT_STATE = _define(
    "payment-state", 409, "The payment's state forbids it", "The detail says what is possible."
)
ACCOUNT_TAKEN = _define(
    "account-taken",
    409,
    "There is such an account",
    "Location is the account of that code and currency; the flow's own codes can't be taken.",
)
INSUFFICIENT_FUNDS = _define(
    "insufficient-funds",
    409,
    "The account has less than that",
    "Nothing was moved. The answer has the balance; only accounts that may overdraw go below zero.",
)
FLOWS_ACCOUNT = _define(
    "flows-account",
    409,
    "The account is booked on by charges and refunds alone",
    "Nothing was moved. Its sum is what the gateway did: transfer between accounts of your own.",
)
BAD_SIGNATURE = _define(
    "bad-signature",
    400,
    "The event is not signed by the gateway",
    "Nothing was taken in. The header Stripe-Signature must hold the time, off by 300 seconds at "
    "most, and the HMAC of it and the body under the endpoint's secret.",
)
BODY_TOO_LARGE = _define(
    "body-too-large",
    413,
    "The body is too large",
    "Bodies are limited to 64 KiB; those of bulks to 4 MiB and 1,000 orders or users, or to 16 MiB "
    "and 10,000 jobs; workflows to 4 MiB and 1,000 steps.",
)
UNSUPPORTED_MEDIA_TYPE = _define(
    "unsupported-media-type",
    415,
    "Not a media type that is read here",
    "Send Content-Type: application/json and no Content-Encoding.",
)
VALIDATION = _define(
    "validation",
    422,
    "The request is well-formed and wrong",
    "Each entry of errors names a place (pointer: RFC 6901, into the body; parameter: in the query "
    "or the headers) and what is wrong there. Nothing was accepted, and no key was used up.",
)
KEY_REUSED = _define(
    "idempotency-key-reused",
    422,
    "The Idempotency-Key belongs to another request",
    "A different method, path or body was sent under this key before. Use a new key for a new "
    "request; to repeat the old one, send exactly the same values.",
)
RATE_LIMITED = _define(
    "rate-limited",
    429,
    "Too many requests",
    "Wait for the seconds in Retry-After. RateLimit-Remaining tells what is left in advance; "
    "requests that were refused do not count.",
)
INTERNAL = _define(
    "internal-error",
    500,
    "This is our fault",
    "Nothing was accepted, unless the failure hit its confirmation: repeat the request under the "
    "same Idempotency-Key. Tell us the request_id if it persists.",
)
UNAVAILABLE = _define(
    "unavailable",
    503,
    "The database is away",
    "Nothing was accepted, unless the outage hit its confirmation: repeat the request under the "
    "same Idempotency-Key after Retry-After seconds.",
)
BUSY = _define(
    "busy",
    503,
    "Others are changing the same thing",
    "Nothing was done: other requests, or jobs, held what this is about for too long. Repeat the "
    "request under the same Idempotency-Key after Retry-After seconds.",
)

TYPES: Mapping[str, ProblemType] = _types
"""All of them, by name."""


class ErrorPlace(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str | None = Field(
        default=None,
        description="Where in the body: a JSON pointer (RFC 6901) as a URI fragment.",
        examples=["#/lines/0/quantity"],
    )
    parameter: str | None = Field(
        default=None, description="Which parameter of the query, or header.", examples=["limit"]
    )
    detail: str = Field(description="What is wrong there.")


class Problem(BaseModel):
    """An error, as in RFC 9457; some types add members of their own."""

    type: str = Field(description="What kind of error; an address that explains it.")
    title: str
    status: int
    detail: str = Field(description="What happened this time, what was kept and what to do.")
    instance: str = Field(description="The path of the request.")
    errors: list[ErrorPlace] | None = Field(default=None, description="Of a validation error.")


class ProblemError(Exception):
    """A refusal on its way to the caller.

    Args:
        kind: its type.
        detail: what happened this time; the type's advice where that says it all.
        errors: the places that are wrong, in a validation error.
        headers: headers of the answer.
        members: further members of the answer.
    """

    def __init__(
        self,
        kind: ProblemType,
        detail: str | None = None,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """See the class."""
        super().__init__(detail or kind.help)
        self.kind = kind
        self.detail = detail or kind.help
        self.errors = errors
        self.headers = headers or {}
        self.members = members or {}

    def document(self, instance: str) -> dict[str, Any]:  # JSON, with what the type adds
        """Return the answer's body, for a request to the path ``instance``."""
        document: dict[str, Any] = {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            document["errors"] = self.errors
        return document | dict(self.members)

    def response(self, instance: str) -> Response:
        """Return the whole answer."""
        return Response(
            orjson.dumps(self.document(instance)),
            self.kind.status,
            dict(self.headers),
            media_type=MEDIA_TYPE,
        )


def refusals(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """Return what a call's documentation says of the problems it can answer with."""
    told: dict[int | str, dict[str, Any]] = {}
    for kind in dict.fromkeys(kinds):
        before = told.get(kind.status)
        text = f"`{kind.name}`: {kind.title}"
        told[kind.status] = {"description": f"{before['description']}; {text}" if before else text}
    return told


def pointer(location: Iterable[str | int]) -> str:
    """Return a place in the body as a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(["#", *(f"/{quote(part, safe='~')}" for part in parts)])


def validation(errors: Sequence[Mapping[str, str]]) -> ProblemError:
    """Return the refusal of a request that is wrong in the places that ``errors`` names."""
    first = errors[0]
    where = first.get("pointer") or first["parameter"]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ProblemError(VALIDATION, f"{where}: {first['detail']}{more}.", errors=errors)


def unknown_user(user_id: UUID) -> ProblemError:
    """Return the refusal of a body whose ``user_id`` is of nobody, or nobody the caller knows."""
    return validation([{"pointer": "#/user_id", "detail": f"There is no user {user_id}"}])


def not_found(what: str) -> ProblemError:
    """Return the refusal for a thing that isn't there, or is another tenant's."""
    return ProblemError(NOT_FOUND, f"There is no {what}.")
