"""The chain's own steps, 2 x 50 orders at a time, with no job system and nothing to lose.

``python -m benchmarks.limits.one_by_one chain --jobs N --postgres … --gateway … --folder …
--result …``. Each order pays its own statements, commits and call: nobody who runs orders singly
can be faster.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.chain import loop
from benchmarks.limits.processes import Chunks, at_once, chain
from benchmarks.peers.harness import Figures, Run, run_and_report

AT_ONCE = 50
"""Orders under way in each process."""


async def carry_out(_: Run, chunks: Chunks, wait_for_others: Callable[[], None]) -> None:
    """Take orders and carry them out."""
    wait_for_others()

    async def work() -> None:
        for chunk in chunks:
            for order in chunk:
                await loop.reserve(order)
                await loop.charge(order)
                await loop.notify(order)

    await at_once(AT_ONCE, work)
    await loop.close()


def _measure(run: Run) -> Figures:
    return chain(run, carry_out, chunk_size=1)


if __name__ == "__main__":
    run_and_report(_measure)
