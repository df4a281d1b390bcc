"""What a person may do is what their role may: each is a set of the scopes that keys have too."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from commerce.accounts.scopes import ADMIN


class Role(StrEnum):
    """What somebody who signs in is to the tenant."""

    CUSTOMER = "customer"
    """Buys: sees and changes what is their own, and nothing of anybody else."""
    SUPPORT = "support"
    """Helps customers: sees what is theirs, and calls off or gives back what was ordered."""
    ADMIN = "admin"
    """Does everything within the tenant."""


SCOPES_OF: Mapping[Role, frozenset[str]] = MappingProxyType(
    {
        Role.CUSTOMER: frozenset(
            {"orders:read", "orders:write", "payments:read", "payments:write", "users:read"}
        ),
        Role.SUPPORT: frozenset(
            {
                "orders:read",
                "orders:write",
                "payments:read",
                "payments:write",
                "users:read",
                "users:write",
                "stock:read",
                "jobs:read",
                "queues:read",
                "limits:read",
            }
        ),
        Role.ADMIN: frozenset({ADMIN}),
    }
)
"""The scopes of each role."""
