"""How a batch, a rate's tokens and free places are shared out among lanes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodsyard.allotment import Allowance, Weighed, allot, split
from goodsyard.lanes import Lane

MANY = 400


def lane(tenant: int = 1, limit: str = "", slot: str = "") -> Lane:
    return Lane(tenant, limit, slot)


def shares(  # noqa: PLR0913 - what there may be of each
    lanes: Sequence[Lane],
    most: int,
    *,
    tokens: float = math.inf,
    places: float = math.inf,
    weights: Sequence[float] = (),
    priced: bool = False,
) -> list[Allowance]:
    return allot(
        [Weighed(one, w) for one, w in zip(lanes, weights or [1.0] * len(lanes), strict=True)],
        most,
        tokens={one.limit_key: tokens for one in lanes},
        places={one.slot_key: places for one in lanes},
        priced=priced,
    )


@given(
    st.integers(0, 5_000),
    st.lists(st.floats(0.01, 100, allow_nan=False), min_size=1, max_size=50),
)
def test_parts_are_whole_sum_up_and_are_near_to_their_weights(
    total: int, weights: list[float]
) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert part == int(part)
        assert abs(part - total * weight / sum(weights)) <= 1 + 1e-6


def test_no_lane_is_always_the_one_that_gets_nothing() -> None:
    lanes = [lane(tenant) for tenant in range(10)]
    served: Counter[int] = Counter()
    for _ in range(MANY):
        served.update(one.lane.tenant for one in shares(lanes, 1))
    assert served.keys() == set(range(10))
    assert sum(served.values()) == MANY


def test_in_the_long_run_small_batches_go_by_weight() -> None:
    served: Counter[int] = Counter()
    for _ in range(10 * MANY):
        served.update(one.lane.tenant for one in shares([lane(1), lane(2)], 1, weights=[3, 1]))
    assert served[1] / served[2] == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize("tokens", [0, 0.9])
def test_a_lane_without_a_whole_token_gets_nothing(tokens: float) -> None:
    assert shares([lane()], 10, tokens=tokens) == []


def test_lanes_with_one_key_share_its_tokens_and_places() -> None:
    lanes = [lane(tenant, "provider", "provider") for tenant in range(4)]
    assert sum(one.most for one in shares(lanes, 100, tokens=10.7)) == 10
    assert sum(one.most for one in shares(lanes, 100, places=3)) == 3


def test_each_key_has_the_whole_rate_for_itself() -> None:
    lanes = [lane(tenant, str(tenant)) for tenant in range(4)]
    assert [one.most for one in shares(lanes, 100, tokens=10)] == [10] * 4


def test_of_jobs_with_a_price_one_lane_draws_on_a_bucket_at_a_time() -> None:
    lanes = [lane(tenant, "provider") for tenant in range(4)]
    chosen = set()
    for _ in range(MANY):
        (one,) = shares(lanes, 100, tokens=0.5, priced=True)
        assert one.tokens == 0.5
        chosen.add(one.lane)
    assert chosen == set(lanes)


def test_a_bucket_in_debt_pays_for_nothing() -> None:
    assert shares([lane()], 10, tokens=-3, priced=True) == []
