"""Two requests have one hash exactly if every value in them is the same."""

from __future__ import annotations

import json
import random

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import JsonValue

from goodsyard.request_keys import request_hash

# What a parser of JSON can hand over: whole numbers within 64 bits (a larger one is refused or read
# as a float before it gets here), no NaN, no infinity, no half of a surrogate pair.
texts = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | texts
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def digest(body: JsonValue) -> bytes:
    return request_hash("POST", "/v1/orders", body)


def shuffled(value: JsonValue, order: random.Random) -> JsonValue:
    """Return the same document with the keys of its objects in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(inner, order)) for key, inner in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(inner, order) for inner in value] if isinstance(value, list) else value


def canonical(value: JsonValue) -> str:
    """Return the document as another implementation writes it: the values that there are."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


@given(documents, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(body: JsonValue, order: random.Random) -> None:
    assert digest(shuffled(body, order)) == digest(body)


@given(documents, st.sampled_from([None, 0, 3, "\t"]))
def test_white_space_does_not_count(body: JsonValue, indent: int | str | None) -> None:
    assert digest(json.loads(json.dumps(body, indent=indent))) == digest(body)


@given(documents, documents)
def test_every_value_counts(one: JsonValue, other: JsonValue) -> None:
    assume(canonical(one) != canonical(other))
    assert digest(one) != digest(other)


@given(documents, st.data())
def test_a_single_value_that_is_changed_is_seen(body: JsonValue, data: st.DataObject) -> None:
    changed = _change_one(body, data)
    assume(canonical(changed) != canonical(body))
    assert digest(changed) != digest(body)


def _change_one(value: JsonValue, data: st.DataObject) -> JsonValue:
    if isinstance(value, dict) and value:
        key = data.draw(st.sampled_from(sorted(value)))
        return value | {key: _change_one(value[key], data)}
    if isinstance(value, list) and value:
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], _change_one(value[place], data), *value[place + 1 :]]
    return data.draw(scalars)
