"""No two readers of a body disagree about what it says: a name that comes twice is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers import problems
from producers.bodies import parse
from producers.problems import ProblemError

texts = st.text(st.sampled_from('ab:"\\,{} '), max_size=5)
documents = st.recursive(
    st.none() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"amount": 1, "amount": 100}',
        b'{"amount" :1,"amount"\t:\n100}',
        b'{"amount": 1, "a\\u006dount": 100}',
        b'{"a": {"b": [{"c": 1, "c": 1}]}}',
        b'{"": 1, "": 2}',
        b'{"note": "10:30", "amount": 1, "amount": 100}',
    ],
)
def test_a_name_that_comes_twice_is_a_clear_400(raw: bytes) -> None:
    with pytest.raises(ProblemError) as refused:
        parse(raw)
    assert refused.value.kind is problems.MALFORMED_JSON
    assert "twice" in refused.value.detail


@given(documents)
def test_what_has_each_name_once_is_read_as_it_is(document: object) -> None:
    for raw in (json.dumps(document), json.dumps(document, indent=1)):
        assert parse(raw.encode()) == document


def test_the_same_name_in_two_objects_is_nothing_odd() -> None:
    raw = b'{"lines": [{"sku": "a:b"}, {"sku": "c"}], "sku": {"sku": "d"}}'
    assert parse(raw) == json.loads(raw)
    assert parse(b"[" * 900 + b'"a:b"' + b"]" * 900)
