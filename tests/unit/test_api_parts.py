"""The parts of the API that need no server: keys, cursors, pointers, traces, rates, scopes."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request

from commerce.accounts.keys import split_api_key
from commerce.accounts.scopes import SCOPES, UnknownScopeError, check_scopes, covers
from goodsyard.contracts import Rate
from producers.bodies import parse
from producers.idempotency import parse_key
from producers.limit_shapes import rate_text
from producers.pagination import PageQuery
from producers.problems import ProblemError, pointer
from producers.tracing import trace_context

printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ('"', '"'),
        ('""', None),
        ('a"b', 'a"b'),
        ("", None),
        ("x" * 255, "x" * 255),
        ("x" * 256, None),
        ('"' + "x" * 255 + '"', "x" * 255),
        ("naïve", None),
        ("a\tb", None),
    ],
)
def test_a_key_is_read_bare_or_quoted(value: str, key: str | None) -> None:
    if key is None:
        with pytest.raises(ProblemError):
            parse_key(value)
    else:
        assert parse_key(value) == key


@given(printable)
def test_every_printable_key_survives_its_quotes(key: str) -> None:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_key(f'"{escaped}"') == key


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((), "#"),
        (("lines", 0, "quantity"), "#/lines/0/quantity"),
        (("a/b", "c~d"), "#/a~1b/c~0d"),
        (("ü", "x y", "%"), "#/%C3%BC/x%20y/%25"),
        (("",), "#/"),
    ],
)
def test_a_pointer_is_a_uri_fragment(location: tuple[str | int, ...], expected: str) -> None:
    assert pointer(location) == expected


@dataclass
class Row:
    """A row of a list."""

    id: UUID


@given(st.uuids(), st.integers(1, 200))
def test_a_cursor_leads_back_to_its_row(last: UUID, limit: int) -> None:
    rows = [Row(uuid4()) for _ in range(limit - 1)] + [Row(last), Row(uuid4())]
    page, cursor = PageQuery(limit=limit).cut(rows)
    assert [row.id for row in page] == [row.id for row in rows[:limit]]
    assert PageQuery(cursor=cursor).before == last


def test_the_last_page_has_no_cursor() -> None:
    rows = [Row(uuid4()), Row(uuid4())]
    assert PageQuery(limit=2).cut(rows) == (rows, None)


@given(st.text(max_size=30))
def test_whatever_is_sent_as_a_cursor_is_read_or_refused(text: str) -> None:
    try:
        query = PageQuery(cursor=text)
    except ValidationError:
        return
    assert isinstance(query.before, UUID)


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (TRACE, True),
        (f"  {TRACE} ", True),
        (TRACE.upper(), False),
        ("", False),
        (f"{TRACE}-more", False),
        (f"cc{TRACE[2:]}-more", True),
        (f"ff{TRACE[2:]}", False),
        ("00-" + "0" * 32 + TRACE[35:], False),
        (TRACE[:36] + "0" * 16 + TRACE[52:], False),
        (f"cc{TRACE[2:]}-{'x' * 500}", False),
    ],
)
def test_only_a_sound_traceparent_is_kept(value: str, kept: bool) -> None:  # noqa: FBT001 - a case
    headers = [(b"traceparent", value.encode())]
    request = Request({"type": "http", "headers": headers})
    assert trace_context(request) == (value.strip() if kept else None)


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        ("100/minute", "100/minute"),
        ("50/second", "50/second"),
        ("60/minute", "1/second"),
        ("1/day", "1/day"),
        ("7/hour", "7/hour"),
        ("0.5/second", "30/minute"),
        ("1.5/day", "0.000017361111/second"),
    ],
)
def test_a_rate_is_shown_as_people_write_it(rate: str, shown: str) -> None:
    assert rate_text(Rate(rate).per_second) == shown


@given(st.integers(1, 1_000_000).map(str), st.sampled_from(["second", "minute", "hour", "day"]))
def test_a_rate_that_is_shown_is_the_rate_that_was_set(count: str, unit: str) -> None:
    per_second = Rate(f"{count}/{unit}").per_second
    assert math.isclose(Rate(rate_text(per_second)).per_second, per_second, rel_tol=1e-6)


def test_admin_may_do_everything_and_the_others_what_they_are_named_for() -> None:
    assert all(covers({"admin"}, scope) for scope in (*SCOPES, "jobs:submit:any.kind"))
    assert covers({"jobs:submit:*"}, "jobs:submit:notifications.email")
    assert covers({"jobs:submit:a.b"}, "jobs:submit:a.b")
    assert not covers({"jobs:submit:a.b"}, "jobs:submit:a.c")
    assert not covers({"jobs:submit:*"}, "jobs:admin")
    assert not covers({"orders:write"}, "orders:read")
    assert not covers(set(), "orders:read")


@pytest.mark.parametrize("scope", ["", "orders", "orders:Write", "jobs:submit:", "jobs:submit:A"])
def test_a_scope_that_means_nothing_is_named(scope: str) -> None:
    with pytest.raises(UnknownScopeError, match="the scopes are"):
        check_scopes(["admin", scope])


@given(st.text(max_size=100))
def test_no_text_is_mistaken_for_a_key(text: str) -> None:
    assert split_api_key(text) is None or text.startswith("gy_live_")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(json_values)
def test_what_is_json_is_read_as_it_is(value: object) -> None:
    assert parse(orjson.dumps(value)) == value


@given(st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
def test_what_is_no_json_is_refused_in_words(raw: bytes) -> None:
    with suppress(ProblemError):
        parse(raw)
