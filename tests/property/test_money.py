"""Money is read strictly and written so that it can be read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from commerce.money import MAX_AMOUNT, Money
from commerce.notifications.messages import format_money

CURRENCIES = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}


@given(st.integers(0, MAX_AMOUNT), st.from_regex(r"[A-Z]{3}", fullmatch=True))
def test_money_goes_out_as_it_came_in(amount: int, currency: str) -> None:
    document = json.dumps({"amount": amount, "currency": currency})
    assert Money.model_validate_json(document).model_dump_json() == document.replace(" ", "")


@given(
    st.integers(max_value=-1) | st.integers(min_value=MAX_AMOUNT + 1)
    | st.floats() | st.booleans() | st.none() | st.text() | st.lists(st.integers(), max_size=2)
)  # fmt: skip
def test_anything_but_a_whole_number_of_minor_units_is_refused(amount: JsonValue) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate({"amount": amount, "currency": "EUR"})
    with pytest.raises(ValidationError):
        Money.model_validate_json(json.dumps({"amount": amount, "currency": "EUR"}))


@given(st.from_regex(r"[0-9]{1,9}([eE][+-]?[0-9]{1,2}|\.[0-9]{1,9})", fullmatch=True))
def test_a_number_with_an_exponent_or_a_fraction_is_refused(literal: str) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate_json(f'{{"amount": {literal}, "currency": "EUR"}}')


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT), st.sampled_from(sorted(CURRENCIES)))
def test_money_that_is_written_can_be_read_back(amount: int, currency: str) -> None:
    number, _, code = format_money(amount, currency).partition(" ")
    whole, _, part = number.partition(".")
    assert code == currency
    assert len(part) == CURRENCIES[currency]
    assert int(whole + part) == amount
