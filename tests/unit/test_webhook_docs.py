"""What docs/webhooks.md says of events, retries and limits is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from commerce.notifications import destinations, health, postman
from commerce.notifications.events import JOB_DEAD, ORDER_EVENTS, PAYMENT_EVENTS
from tasks.contracts import SendWebhook

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()


def retries_table() -> str:
    """Return the table of retries, from the policy: waits at the most, and added up on average."""
    policy, lines, elapsed = SendWebhook.policy, [], 0.0
    for failures in range(1, policy.max_attempts):
        wait = policy.backoff.ceiling(failures)
        elapsed += wait / 2  # full jitter
        lines.append(f"| {failures + 1} | {_told(wait)} | {_told(elapsed)} |")
    return "\n".join(lines)


def _told(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:g} s"


def test_the_table_of_retries_is_the_policys() -> None:
    assert retries_table() in PAGE


def test_every_event_is_on_the_page_and_no_other() -> None:
    listed = re.findall(r"^\| `((?:order|payment|job)\.\w+)`", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted([*ORDER_EVENTS, *PAYMENT_EVENTS, JOB_DEAD])


def test_the_figures_in_the_text_are_the_codes() -> None:
    for told in (
        f"within {postman.CALL_SECONDS:g} seconds",
        f"{health.TRIP_AFTER} failures in a row",
        f"{health.DISABLE_AFTER.days} days",
        " or ".join(map(str, sorted(destinations.PORTS))),
    ):
        assert told in PAGE, told
