"""A chunk of orders is served as if each had come alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from commerce.orders.rules import Demand, allocate, needs_of

Sku = tuple[int, str]

skus = st.tuples(st.integers(1, 2), st.sampled_from("ABC"))
needs = st.dictionaries(skus, st.integers(1, 5), max_size=3)
shelves = st.dictionaries(skus, st.integers(0, 8))
chunks = st.lists(needs, max_size=6).map(
    lambda chunk: [Demand(UUID(int=number), need) for number, need in enumerate(chunk)]
)


def one_by_one(
    demands: Sequence[Demand], free: Mapping[Sku, int]
) -> tuple[set[UUID], dict[Sku, int]]:
    """Allocate as naively as can be: look at the shelf, take it all or leave it, next."""
    shelf = dict(free)
    served = set()
    for demand in demands:
        after = {sku: shelf.get(sku, 0) - pieces for sku, pieces in demand.needs.items()}
        if min(after.values(), default=0) >= 0:
            shelf |= after
            served.add(demand.order_id)
    return served, {sku: pieces - shelf[sku] for sku, pieces in free.items()}


@given(chunks, shelves)
def test_a_batch_is_allocated_as_one_by_one(demands: list[Demand], free: dict[Sku, int]) -> None:
    served, taken = one_by_one(demands, free)
    allocation = allocate(demands, free)
    assert allocation.accepted == served
    assert allocation.rejected == {demand.order_id for demand in demands} - served
    assert {sku: allocation.reserved.get(sku, 0) for sku in free} == taken


@given(chunks, shelves)
def test_no_more_is_set_aside_than_there_is_and_than_was_asked_for(
    demands: list[Demand], free: dict[Sku, int]
) -> None:
    allocation = allocate(demands, free)
    accepted = [demand for demand in demands if demand.order_id in allocation.accepted]
    assert all(pieces <= free.get(sku, 0) for sku, pieces in allocation.reserved.items())
    assert dict(allocation.reserved) == dict(needs_of(accepted))


@given(chunks, shelves, st.integers(0, 6))
def test_a_batch_may_be_cut_anywhere(demands: list[Demand], free: dict[Sku, int], cut: int) -> None:
    first = allocate(demands[:cut], free)
    left = {sku: pieces - first.reserved.get(sku, 0) for sku, pieces in free.items()}
    second = allocate(demands[cut:], left)
    assert allocate(demands, free).accepted == first.accepted | second.accepted
