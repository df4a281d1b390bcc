"""What an API key may do, in names; ``admin`` may do everything within its tenant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

ADMIN = "admin"

SCOPES = frozenset(
    {
        ADMIN,
        "orders:read",
        "orders:write",
        "users:read",
        "users:write",
        "payments:read",
        "payments:write",
        "ledger:read",
        "ledger:write",
        "stock:read",
        "stock:write",
        "notifications:write",
        "webhooks:read",
        "webhooks:write",
        "jobs:read",
        "jobs:admin",
        "queues:read",
        "limits:read",
        "reports:read",
    }
)
"""Every scope but those of the form ``jobs:submit:KIND``."""

_SUBMIT = "jobs:submit:"
_SUBMIT_ANY = "jobs:submit:*"
_SUBMIT_FORM = r"jobs:submit:(\*|[a-z0-9_]+(\.[a-z0-9_]+)*)"

SCOPE_PATTERN = f"^({'|'.join(sorted(SCOPES))}|{_SUBMIT_FORM})$"
"""What every scope matches."""

_SCOPE = re.compile(SCOPE_PATTERN)


class UnknownScopeError(ValueError):
    """A scope that means nothing was asked for; the message lists those that mean something."""

    def __init__(self, unknown: Iterable[str]) -> None:
        known = ", ".join(sorted(SCOPES))
        super().__init__(
            f"unknown scope {', '.join(sorted(unknown))}: the scopes are {known}, "
            f"jobs:submit:KIND and {_SUBMIT_ANY}"
        )


def submit_scope(kind: str) -> str:
    """Return the scope that lets a key submit jobs of ``kind``."""
    return _SUBMIT + kind


def check_scopes(scopes: Iterable[str]) -> None:
    """Refuse scopes that no call asks for: a typo would otherwise show only when a call fails.

    Raises:
        UnknownScopeError: some don't exist.
    """
    unknown = [scope for scope in scopes if not _SCOPE.fullmatch(scope)]
    if unknown:
        raise UnknownScopeError(unknown)


def covers(granted: Collection[str], wanted: str) -> bool:
    """Whether a key with the scopes ``granted`` may do what asks for ``wanted``."""
    return (
        wanted in granted
        or ADMIN in granted
        or (wanted.startswith(_SUBMIT) and _SUBMIT_ANY in granted)
    )
