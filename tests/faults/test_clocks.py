"""A wrong clock loses no lease: what is overdue, the database's clock alone decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.conftest import System
from tests.harness.invariants import assert_invariants
from tests.harness.shop import Shop

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))

pytestmark = [
    pytest.mark.faults,
    pytest.mark.long,
    pytest.mark.row(number=33),
    pytest.mark.skipif(not _LIBRARIES, reason="libfaketime isn't here: apt install libfaketime"),
]

HOUR = 3_600


class Clock:
    """The clock of some processes, an offset beside everybody else's; timers are not touched."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: int) -> None:
        """Show another time from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment of a process that goes by this clock."""
        return {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


def _shift_under_load(shop: Shop, clock: Clock) -> None:
    """Have 300 orders carried out while the clock jumps forth and back, by an hour each way."""
    shop.order(300)
    for charges, seconds in ((20, HOUR), (80, -HOUR), (140, HOUR), (180, 0)):
        shop.until_charged(charges)
        clock.set(seconds)
    shop.until_settled()
    assert shop.most_lost() == 0
    assert_invariants(shop)


def test_a_worker_whose_clock_jumps_by_an_hour_loses_no_lease(
    system: System, shop: Shop, clock: Clock
) -> None:
    with system.cluster.worker(processes=2, settings=clock.settings) as worker:
        worker.until_ready()
        system.worker.stop()
        _shift_under_load(shop, clock)


def test_a_relay_whose_clock_jumps_by_an_hour_takes_nothing_back_early(
    system: System, shop: Shop, clock: Clock
) -> None:
    system.relay.stop()
    with system.cluster.relay(clock.settings):
        _shift_under_load(shop, clock)


def test_a_program_goes_by_the_clock_it_is_given(system: System, clock: Clock) -> None:
    clock.set(HOUR)
    said = "import time; print(time.time() - time.clock_gettime(time.CLOCK_MONOTONIC))"
    ours = system.cluster.start(system.cluster.program("our-clock", "-c", said))
    theirs = system.cluster.start(
        system.cluster.program("their-clock", "-c", said, settings=clock.settings)
    )
    assert ours.until_ended() == theirs.until_ended() == 0
    assert float(theirs.said) - float(ours.said) == pytest.approx(HOUR, abs=60)
