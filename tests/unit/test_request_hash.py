"""By which requests under one idempotency key are the same."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from goodsyard.request_keys import request_hash

BODY: dict[str, JsonValue] = {
    "user_id": "u1",
    "lines": [{"sku": "CD", "quantity": 1}],
    "metadata": None,
}


def request(**changed: JsonValue) -> dict[str, JsonValue]:
    return BODY | changed


def test_the_order_of_keys_does_not_count() -> None:
    turned: dict[str, JsonValue] = {
        "metadata": None,
        "lines": [{"quantity": 1, "sku": "CD"}],
        "user_id": "u1",
    }
    assert request_hash("POST", "/v1/orders", turned) == request_hash("POST", "/v1/orders", BODY)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v1/orders", BODY),
        ("POST", "/v1/payments", BODY),
        ("POST", "/v1/orders", {}),
        ("POST", "/v1/orders", None),
        ("POST", "/v1/orders", request(user_id="u2")),
        ("POST", "/v1/orders", request(lines=[{"sku": "CD", "quantity": 2}])),
        ("POST", "/v1/orders", request(lines=[{"sku": "CD", "quantity": "1"}])),
        ("POST", "/v1/orders", request(lines=[{"sku": "CD", "quantity": True}])),
        ("POST", "/v1/orders", request(lines=[])),
        ("POST", "/v1/orders", request(metadata={})),
        ("POST", "/v1/orders", {key: BODY[key] for key in ("user_id", "lines")}),
    ],
)
def test_the_method_the_path_and_every_value_count(method: str, path: str, body: JsonValue) -> None:
    assert request_hash(method, path, body) != request_hash("POST", "/v1/orders", BODY)


def test_the_order_of_a_list_counts() -> None:
    assert request_hash("POST", "/", [1, 2]) != request_hash("POST", "/", [2, 1])


def test_a_path_cannot_run_over_into_the_body() -> None:
    assert request_hash("POST", '/a","b', "c") != request_hash("POST", "/a", 'b","c')
