"""Benchmarks lose no figure, mix no two runs, and never call a failure a figure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from benchmarks import figures, marks, report
from benchmarks.arms import Arm, Figures
from benchmarks.figures import UNITS, Results, Spread
from benchmarks.processes import BenchmarkError
from benchmarks.rounds import carry_out, turns
from benchmarks.terminal import Terminal

NOOP = {"goodsyard": [3.0, 1.0, 2.0], "taskiq": [4.0, 4.0, 1.0]}


def test_a_spread_is_the_least_the_median_and_the_most() -> None:
    summed = figures.summed_up(
        {"noop": {system: values[run] for system, values in NOOP.items()}} for run in range(3)
    )
    assert summed == {"noop": {"goodsyard": spread(1.0, 2.0, 3.0), "taskiq": spread(1.0, 4.0, 4.0)}}


def test_new_figures_replace_their_own_alone() -> None:
    old: Results = {
        "chain": {"goodsyard": spread(9)},
        "noop": {"goodsyard": spread(1), "taskiq": spread(2)},
    }
    new: Results = {"noop": {"goodsyard": spread(5)}, "io50": {"goodsyard": spread(7)}}
    merged = figures.merged(old, new)
    assert merged == {
        "noop": {"goodsyard": spread(5), "taskiq": spread(2)},
        "io50": {"goodsyard": spread(7)},
        "chain": {"goodsyard": spread(9)},
    }
    assert list(merged) == [section for section in UNITS if section in merged]


def test_a_system_that_failed_keeps_no_older_figure_of_that_section() -> None:
    old: Results = {
        "noop": {"goodsyard": spread(1)},
        "latency_p99": {
            "goodsyard": spread(1),
            "goodsyard (from commit)": spread(2),
            "goodsyard over HTTP": spread(3),
        },
    }
    assert figures.without(old, "latency", ["goodsyard"]) == {
        "noop": {"goodsyard": spread(1)},
        "latency_p99": {"goodsyard over HTTP": spread(3)},
    }


def test_what_was_saved_is_loaded_and_nothing_unfinished_stays(tmp_path: Path) -> None:
    file = tmp_path / "results" / "latest.json"
    assert figures.load(file) == {}
    figures.save({"noop": {"goodsyard": spread(1, 2, 3)}}, file)
    assert orjson.loads(file.read_bytes()) == {
        "noop": {"goodsyard": {"min": 1, "median": 2, "max": 3, "unit": "jobs/s"}}
    }
    assert figures.load(file) == {"noop": {"goodsyard": spread(1, 2, 3)}}
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize(
    ("value", "text"), [(15_604.4, "15,604"), (686.94, "686.9"), (3.4, "3.4"), (0.0653, "0.0653")]
)
def test_numbers_are_never_powers_of_ten(value: float, text: str) -> None:
    assert figures.readable(value) == text


@pytest.mark.parametrize(("unit", "times"), [("jobs/s", "4.00x"), ("ms", "0.25x"), ("%", "0.25x")])
def test_a_ratio_above_one_means_that_goodsyard_is_better(unit: str, times: str) -> None:
    systems = {"goodsyard": spread(8, unit=unit), "peer": spread(2, unit=unit)}
    assert report.ratio(systems, "peer") == times
    assert not report.ratio(systems, "goodsyard")


def test_the_best_comes_first_whichever_way_is_better() -> None:
    for unit, best in (("jobs/s", "fast"), ("ms", "slow")):
        systems = {"slow": spread(1, unit=unit), "fast": spread(2, unit=unit)}
        assert figures.best_first(systems)[0][0] == best


def test_systems_take_turns_round_by_round() -> None:
    arms = [arm("a"), arm("b", runs=1), arm("c", warms_up=False)]
    order = [(number, taken.system) for number, taken in turns(arms, 2)]
    assert order == [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "c")]


def test_one_failure_leaves_a_system_without_figures_and_the_others_with_theirs() -> None:
    taken: list[int] = []

    def fails_the_second_time(jobs: int) -> Figures:
        taken.append(jobs)
        if len(taken) == 2:
            raise BenchmarkError("3 jobs never ran")
        return {"noop": {"flaky": 1.0}}

    arms = [arm("steady"), arm("flaky", fails_the_second_time)]
    outcome = carry_out(turns(arms, 3), Terminal())
    assert outcome.runs == [{"noop": {"steady": 1000.0}}] * 3
    assert outcome.failures == {"flaky": "3 jobs never ran"}
    assert taken == [100, 1000], "a small run first, and none after the failure"


def test_the_document_changes_between_its_marks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, kept = tmp_path / "performance.md", tmp_path / "latest.json"
    monkeypatch.setattr(report, "LATEST", kept)
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    figures.save({"noop": {"goodsyard": spread(8), "taskiq": spread(2)}}, kept)
    report.write(page)
    written = page.read_text()
    report.write(page)
    assert page.read_text() == written, "the same figures make the same document"
    assert written.startswith(f"before\n{report.BEGIN}\n")
    assert written.endswith(f"{report.END}\nafter\n")
    assert "old" not in written
    assert "| taskiq | 2 | 2 | 2 | jobs/s | 4.00x |" in written
    assert "![noop](performance/noop.svg)" in written
    assert (tmp_path / "performance" / "noop.svg").exists()


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("by hand")
    with pytest.raises(ValueError, match="must have the lines"):
        report.write(page)
    assert page.read_text() == "by hand"


def test_a_rate_counts_only_if_every_job_ran_once(tmp_path: Path) -> None:
    leave(tmp_path / "1", (0, 10**9), (1, 10**9))
    leave(tmp_path / "2", (2, 3 * 10**9))
    assert marks.rate(tmp_path, range(3)) == 1.5
    assert marks.count(tmp_path) == 3
    with pytest.raises(ValueError, match="1 jobs never ran"):
        marks.rate(tmp_path, range(4))
    leave(tmp_path / "3", (1, 2 * 10**9))
    with pytest.raises(ValueError, match="1 ran more than once"):
        marks.rate(tmp_path, range(3))


def leave(file: Path, *left: tuple[int, int]) -> None:
    file.write_bytes(b"".join(struct.pack("=QQ", *mark) for mark in left))


def spread(
    least: float, median: float | None = None, most: float | None = None, **unit: str
) -> Spread:
    return {
        "min": least,
        "median": median if median is not None else least,
        "max": most if most is not None else least,
        "unit": unit.get("unit", "jobs/s"),
    }


def arm(
    system: str,
    run: Callable[[int], Figures] | None = None,
    *,
    runs: int | None = None,
    warms_up: bool = True,
) -> Arm:
    return Arm(
        "noop",
        system,
        1000,
        run or (lambda jobs: {"noop": {system: float(jobs)}}),
        runs=runs,
        warms_up=warms_up,
    )
