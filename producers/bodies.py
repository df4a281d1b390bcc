"""Reads request bodies so that no size, nesting, number or character in them can do harm.

What passes is JSON in UTF-8, within the route's limit, finite in its numbers, with no name twice in
an object, and storable in Postgres (which has no place for NUL in text, nor for half a surrogate
pair).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from typing import Annotated, Any, ClassVar, NoReturn

import orjson
from fastapi.routing import APIRoute
from pydantic import AwareDatetime, BeforeValidator, Field, JsonValue
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from producers import problems
from producers.problems import ProblemError, pointer

KIB = 1024
READ_SECONDS = 10.0
"""What a client may take to send a body; the rest of the house waits for no slow sender."""

MAX_DEPTH = 20
"""Nesting of free-form JSON: no metadata needs more, and orjson writes 254 levels at most."""

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def _shallow(value: JsonValue) -> JsonValue:
    """Return free-form JSON as it is.

    Raises:
        PydanticCustomError: it is nested deeper than ``MAX_DEPTH``.
    """
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return value
    raise PydanticCustomError("too_deep", "Nested deeper than {most} levels", {"most": MAX_DEPTH})


def _children(node: JsonValue) -> list[JsonValue]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


FreeForm = Annotated[dict[str, JsonValue], BeforeValidator(_shallow)]
"""A JSON object of the caller's own making, nested ``MAX_DEPTH`` levels at the most."""

_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")


def _rfc_3339(value: object) -> object:
    # pydantic would take a number, or one in quotes, for seconds since 1970.
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise PydanticCustomError("rfc_3339", "Not a time as in RFC 3339, with its offset")
    return value


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_rfc_3339),
    # Within the years that Postgres, Python and every offset agree on.
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), le=datetime(9999, 1, 1, tzinfo=UTC)),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A point in time."""


def one_by_one(item: Mapping[str, Any], most: int) -> WithJsonSchema:  # a JSON schema
    """Document a list whose items are refused each by itself, so that its type is of anything."""
    anything = {"description": "Anything else is refused by itself."}
    return WithJsonSchema(
        {"type": "array", "maxItems": most, "items": {"anyOf": [dict(item), anything]}}
    )


Handler = Callable[[Request], Coroutine[Any, Any, Response]]  # Starlette's own shape


class JsonRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, raw: bytes, document: JsonValue) -> None:
        """Carry on with ``request``."""
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._document = document

    async def body(self) -> bytes:
        """Return the bytes."""
        return self._raw

    async def json(self) -> JsonValue:
        """Return what the bytes say."""
        return self._document


class JsonRoute(APIRoute):
    """A route that reads its body, if it declares one, by the rules of this module."""

    max_bytes: ClassVar[int] = 64 * KIB
    looks_closer: ClassVar[bool] = False
    """Whether the handler itself looks for text that can't be stored, thing by thing."""

    def get_route_handler(self) -> Handler:
        """Read the body before anything else looks at it."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        required = self.body_field.field_info.is_required()

        async def read_then_handle(request: Request) -> Response:
            refuse_encodings(request)
            raw = await read_body(request, self.max_bytes)
            if raw or required:
                _refuse_other_types(request)
                document = parse(raw)
                if may_be_unstorable(raw) and not self.looks_closer:
                    refuse_unstorable(document)
                return await handle(JsonRequest(request, raw, document))
            return await handle(JsonRequest(request, raw, None))

        return read_then_handle


class BulkRoute(JsonRoute):
    """A route that takes many things in one body."""

    max_bytes: ClassVar[int] = 4 * KIB * KIB
    looks_closer: ClassVar[bool] = True


def parse(raw: bytes) -> JsonValue:
    """Return the document in ``raw``.

    Raises:
        ProblemError: it isn't JSON, or names a member of an object twice (400), or has half a
            surrogate pair in its text (422).
    """
    try:
        document: JsonValue = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if _HALF_PAIR.search(raw):
            _refuse_half_pairs(raw)
        raise ProblemError(problems.MALFORMED_JSON, f"The body is not JSON: {error}.") from error
    # A name takes a colon: where there are no more colons than names, no name was dropped.
    if raw.count(b":") != _names(document):
        _refuse_doubled_names(raw)
    return document


def _names(document: JsonValue) -> int:
    count, found = 0, [document]
    while found:
        node = found.pop()
        if isinstance(node, dict):
            count += len(node)
            found += node.values()
        elif isinstance(node, list):
            found += node
    return count


def _refuse_doubled_names(raw: bytes) -> None:
    """Refuse what two readers may understand differently (RFC 8259, section 4).

    orjson lets the last of two equal names win and has no hook; this parser takes eight times as
    long, so it reads only bodies with a colon that may belong to a name that was dropped.
    """
    # Nested deeper than this parser goes is nested deeper than anything here may be.
    with suppress(RecursionError):
        json.loads(raw, object_pairs_hook=_each_name_once, parse_int=float)


def _each_name_once(members: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    document: dict[str, JsonValue] = {}
    for name, value in members:
        if name in document:
            detail = f"An object in the body has the name {name[:50]!r} twice. Nothing was done."
            raise ProblemError(problems.MALFORMED_JSON, detail)
        document[name] = value
    return document


def may_be_unstorable(raw: bytes) -> bool:
    """Whether a body that was parsed is worth a closer look: NUL has this one way to be written."""
    return b"\\u0000" in raw


def refuse_unstorable(document: JsonValue) -> None:
    """Refuse text that Postgres can't store.

    Raises:
        ProblemError: 422, naming the places.
    """
    places = list(_unstorable(document))
    if places:
        detail = "Text with NUL or half a surrogate pair can't be stored"
        raise problems.validation([{"pointer": pointer(p), "detail": detail} for p in places])


def refuse_encodings(request: Request) -> None:
    """Refuse a body that would have to be unpacked: its size tells nothing of what is in it.

    Raises:
        ProblemError: 415.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ProblemError(
            problems.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding {encoding!r} is not read here: send the body as it is.",
        )


def _refuse_other_types(request: Request) -> None:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "none/none")
    kind = message.get_content_type()
    is_json = kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )
    charset = message.get_content_charset("utf-8")
    if not is_json or charset not in {"utf-8", "us-ascii"}:
        raise ProblemError(
            problems.UNSUPPORTED_MEDIA_TYPE,
            "Send the body as JSON in UTF-8, with Content-Type: application/json.",
            headers={"Accept": "application/json"},
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        ProblemError: it is larger than ``max_bytes`` (413), or took ``READ_SECONDS`` (408).
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > max_bytes:  # noqa: PLR2004
        _refuse_size(max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    _refuse_size(max_bytes)
    except TimeoutError as error:
        raise ProblemError(problems.BODY_TOO_SLOW, headers={"Connection": "close"}) from error
    return b"".join(parts)


def _refuse_size(max_bytes: int) -> NoReturn:
    # The connection stays: closed with the rest of the body unread, it would be reset, and the
    # client might never read why. The protocol lets the rest go by, for as long as it has patience.
    raise ProblemError(
        problems.BODY_TOO_LARGE,
        f"The body is larger than {max_bytes // KIB} KiB, the most that this call reads.",
    )


def _refuse_half_pairs(raw: bytes) -> None:
    """Say where, if half a surrogate pair is all that is wrong with ``raw``."""
    try:
        # The standard parser accepts what orjson refuses here; its value is looked at, never used.
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return
    refuse_unstorable(document)


def _unstorable(document: JsonValue) -> Iterator[tuple[str | int, ...]]:
    found: list[tuple[tuple[str | int, ...], JsonValue]] = [((), document)]
    while found:  # no recursion: what was parsed may be nested deeper than Python's stack
        place, node = found.pop()
        if isinstance(node, str):
            if _is_unstorable(node):
                yield place
        elif isinstance(node, dict):
            if any(map(_is_unstorable, node)):
                yield place  # a name with such a character can't be shown in a pointer
            found += [((*place, key), child) for key, child in node.items()]
        elif isinstance(node, list):
            found += [((*place, number), child) for number, child in enumerate(node)]


def _is_unstorable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
