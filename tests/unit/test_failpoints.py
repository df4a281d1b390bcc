"""A failpoint strikes at the line, the passage and in the way its one variable names, or never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

THREE_ROUNDS = """
from goodsyard.failpoints import failpoint
for passage in range(1, 4):
    failpoint("after_claim")
    print(passage, flush=True)
    failpoint("before_commit")
"""


def passages(armed: str | None) -> tuple[list[str], int]:
    """Return what a process printed before it ended or stopped, and how: minus the signal."""
    environment = {k: v for k, v in os.environ.items() if k != "GOODSYARD_FAILPOINT"}
    if armed is not None:
        environment["GOODSYARD_FAILPOINT"] = armed
    with subprocess.Popen(
        [sys.executable, "-c", THREE_ROUNDS], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        # Without WNOWAIT the process would be reaped behind the back of Popen.
        how = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        assert how is not None
        process.kill()
        assert process.stdout is not None
        end = how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
        return process.stdout.read().split(), end


@pytest.mark.parametrize(
    ("armed", "printed", "end"),
    [
        (None, ["1", "2", "3"], 0),
        ("", ["1", "2", "3"], 0),
        ("elsewhere", ["1", "2", "3"], 0),
        ("after_claim", [], -signal.SIGKILL),
        ("before_commit", ["1"], -signal.SIGKILL),
        ("before_commit@3", ["1", "2", "3"], -signal.SIGKILL),
        ("after_claim@4", ["1", "2", "3"], 0),
        ("after_claim@2:stop", ["1"], -signal.SIGSTOP),
    ],
)
def test_a_process_dies_where_its_environment_says_and_nowhere_else(
    armed: str | None, printed: list[str], end: int
) -> None:
    assert passages(armed) == (printed, end)
