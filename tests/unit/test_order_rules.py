"""Which orders the stock suffices for, and what lines come to."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from commerce.orders.rules import (
    FINAL,
    Demand,
    Line,
    OrderStatus,
    allocate,
    needs_of,
    quantities,
    total_of,
)

CD, LP = (1, "CD"), (1, "LP")


def demand(number: int, needs: Mapping[tuple[int, str], int]) -> Demand:
    return Demand(UUID(int=number), needs)


def served(demands: list[Demand], free: Mapping[tuple[int, str], int]) -> list[int]:
    return sorted(order.int for order in allocate(demands, free).accepted)


def test_a_total_is_the_sum_over_its_lines() -> None:
    assert total_of([Line("CD", 3, 1_499), Line("CD", 1, 1_500), Line("LP", 2, 0)]) == 5_997


def test_lines_that_share_a_sku_need_their_sum() -> None:
    assert quantities([("CD", 3), ("LP", 1), ("CD", 2)]) == {"CD": 5, "LP": 1}


def test_needs_of_several_orders_add_up() -> None:
    assert needs_of([demand(1, {CD: 3}), demand(2, {CD: 1, LP: 1})]) == {CD: 4, LP: 1}


def test_an_order_gets_all_or_nothing() -> None:
    allocation = allocate([demand(1, {CD: 1, LP: 1})], {CD: 5, LP: 0})
    assert allocation.rejected == {UUID(int=1)}
    assert allocation.reserved == {}


def test_the_last_piece_goes_to_whoever_comes_first() -> None:
    assert served([demand(1, {CD: 2}), demand(2, {CD: 2})], {CD: 3}) == [1]


def test_an_order_that_gets_nothing_leaves_its_share_to_those_behind_it() -> None:
    assert served([demand(1, {CD: 4}), demand(2, {CD: 3})], {CD: 3}) == [2]


def test_a_sku_that_was_never_counted_has_no_pieces() -> None:
    assert served([demand(1, {CD: 1})], {}) == []


def test_one_tenants_stock_is_not_another_tenants() -> None:
    assert served([demand(1, {(2, "CD"): 1})], {(1, "CD"): 5}) == []


def test_what_is_set_aside_is_what_the_accepted_orders_need() -> None:
    demands = [demand(1, {CD: 2}), demand(2, {CD: 9}), demand(3, {CD: 1, LP: 1})]
    allocation = allocate(demands, {CD: 4, LP: 1})
    assert allocation.reserved == {CD: 3, LP: 1}
    assert allocation.accepted == {UUID(int=1), UUID(int=3)}


def test_allocating_leaves_what_it_was_given_as_it_was() -> None:
    free = {CD: 3}
    allocate([demand(1, {CD: 2})], free)
    assert free == {CD: 3}


def test_an_order_is_over_unless_something_is_still_to_be_done() -> None:
    assert set(OrderStatus) - FINAL == {OrderStatus.PENDING, OrderStatus.RESERVED}
