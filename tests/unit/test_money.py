"""Money is whole minor units, in and out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from commerce.money import MAX_AMOUNT, Money
from commerce.notifications.messages import format_money


@pytest.mark.parametrize(
    ("amount", "currency", "written"),
    [
        (1_234, "EUR", "12.34 EUR"),
        (5, "EUR", "0.05 EUR"),
        (0, "USD", "0.00 USD"),
        (24_409_194, "USD", "244091.94 USD"),
        (1_500, "JPY", "1500 JPY"),
        (1_234, "KWD", "1.234 KWD"),
        (7, "TND", "0.007 TND"),
        (-1_234, "EUR", "-12.34 EUR"),
        (-5, "EUR", "-0.05 EUR"),
        (MAX_AMOUNT, "EUR", "999999999.99 EUR"),
    ],
)
def test_money_is_written_with_the_digits_of_its_currency(
    amount: int, currency: str, written: str
) -> None:
    assert format_money(amount, currency) == written


def test_an_amount_is_a_whole_number_of_minor_units() -> None:
    assert Money.model_validate_json('{"amount": 12, "currency": "EUR"}').amount == 12


@pytest.mark.parametrize("amount", ["1e3", "12.34", "12.0", "true", '"12"', "null", "NaN", "-1"])
def test_an_amount_that_is_anything_else_is_refused_not_converted(amount: str) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate_json(f'{{"amount": {amount}, "currency": "EUR"}}')


@pytest.mark.parametrize("amount", [MAX_AMOUNT + 1, 2**63, 10**30])
def test_an_amount_no_order_comes_to_is_refused(amount: int) -> None:
    with pytest.raises(ValidationError):
        Money(amount=amount, currency="EUR")


@pytest.mark.parametrize("currency", ["eur", "EURO", "E", "", "EUR\n", "\u0415UR"])
def test_a_currency_is_three_capitals(currency: str) -> None:
    with pytest.raises(ValidationError):
        Money(amount=1, currency=currency)
