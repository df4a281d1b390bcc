"""Plans: what a tenant may ask for, by a name that the settings of the API give rates to."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

FREE = "free"
STANDARD = "standard"
"""The plan of a tenant for whom nobody chose another."""
UNLIMITED = "unlimited"

PLANS = (FREE, STANDARD, UNLIMITED)
"""Every plan there is."""

_TENANT = text("SELECT id FROM commerce.tenant WHERE name = :name")

_SET_PLAN = text("UPDATE commerce.tenant SET plan = :plan WHERE name = :name RETURNING id")


async def find_tenant(tx: AsyncSession, tenant_name: str) -> int | None:
    """Return the number of a tenant, or ``None`` if there is none of this name."""
    tenant: int | None = await tx.scalar(_TENANT, {"name": tenant_name})
    return tenant


async def set_plan(tx: AsyncSession, tenant_name: str, plan: str) -> bool:
    """Put a tenant on another plan; API processes notice within seconds.

    Args:
        tx: the transaction; the caller commits.
        tenant_name: whose plan.
        plan: one of ``PLANS``.

    Returns:
        Whether there is such a tenant.
    """
    return await tx.scalar(_SET_PLAN, {"name": tenant_name, "plan": plan}) is not None
