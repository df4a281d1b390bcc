"""Steps that could never all run are refused, each fault with its place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest

from goodsyard.workflows import MOST_PARENTS, WorkflowError, check


class Named(NamedTuple):
    """A step as far as its place goes."""

    name: str
    after: Sequence[str] = ()


@pytest.mark.parametrize(
    "steps",
    [
        [Named("a")],
        [Named("a"), Named("b")],
        [Named("b", ["a"]), Named("a")],
        [Named("d", ["b", "c"]), Named("b", ["a"]), Named("c", ["a"]), Named("a")],
        [Named("last", [str(n) for n in range(MOST_PARENTS)])]
        + [Named(str(n)) for n in range(MOST_PARENTS)],
    ],
    ids=["one", "apart", "a chain, last first", "a diamond", "the widest"],
)
def test_steps_in_any_order_make_a_workflow(steps: Sequence[Named]) -> None:
    check(steps)


@pytest.mark.parametrize(
    ("steps", "faults"),
    [
        ([], [((), "at least one step")]),
        ([Named("a"), Named("a")], [((1, "name"), "'a'")]),
        (
            [Named("a", ["x"]), Named("b", ["a", "y"])],
            [((0, "after", 0), "no step 'x'"), ((1, "after", 1), "no step 'y'")],
        ),
        ([Named("a"), Named("b", ["a", "a"])], [((1, "after", 1), "already")]),
        (
            [Named("a")]
            + [Named("b", [str(n) for n in range(MOST_PARENTS + 1)])]
            + [Named(str(n)) for n in range(MOST_PARENTS + 1)],
            [((1, "after"), str(MOST_PARENTS))],
        ),
        ([Named("a", ["a"])], [((0, "after"), "'a' for 'a'")]),
    ],
    ids=["none", "a name twice", "no such names", "waits twice", "too wide", "for itself"],
)
def test_what_is_wrong_is_told_with_its_place(
    steps: Sequence[Named], faults: list[tuple[tuple[str | int, ...], str]]
) -> None:
    with pytest.raises(WorkflowError) as refused:
        check(steps)
    told = refused.value.faults
    assert [fault.place for fault in told] == [place for place, _ in faults]
    assert all(words in fault.detail for fault, (_, words) in zip(told, faults, strict=True))


def test_a_circle_is_told_as_who_waits_for_whom() -> None:
    steps = [Named("x"), Named("a", ["b", "x"]), Named("b", ["c"]), Named("c", ["a"])]
    with pytest.raises(WorkflowError) as refused:
        check(steps)
    (fault,) = refused.value.faults
    _, _, circle = fault.detail.partition(": ")
    names = [name.strip("'") for name in circle.split(" for ")]
    waits = {step.name: step.after for step in steps}
    assert all(parent in waits[child] for child, parent in pairwise(names))
    assert names[0] == names[-1]
    assert fault.place == ([step.name for step in steps].index(names[0]), "after")
