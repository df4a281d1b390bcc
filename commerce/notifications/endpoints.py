"""Statements over webhook endpoints: by the owner one at a time, by deliveries many at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Text, cast, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from commerce.notifications.health import PROBE_SECONDS, Health, Tally, after
from commerce.notifications.models import WebhookEndpoint
from commerce.repository import SqlRepository

MOST_ENDPOINTS = 50
"""Of a tenant: each event makes a job for every one of them that wants it."""

EndpointKey: TypeAlias = tuple[int, UUID]
"""A tenant and an endpoint's id."""


class TooManyEndpointsError(Exception):
    """The tenant has as many endpoints as it may have."""


class Route(NamedTuple):
    """How an endpoint is reached at this moment."""

    tenant: int
    id: UUID
    url: str
    generation: int
    previous_counts: bool
    """Whether the secret before the present one still signs as well."""
    spared_until: datetime | None
    is_probe: bool
    """Whether we are the one who may try an endpoint that is spared."""
    disabled_at: datetime | None
    disabled_reason: str | None

    @property
    def generations(self) -> tuple[int, ...]:
        """The secrets that sign, the latest first."""
        previous = (self.generation - 1,) if self.previous_counts else ()
        return (self.generation, *previous)


# As the tenant's row is locked, two requests can't both take the last place.
_COUNT = text("""
    WITH owner AS MATERIALIZED (
        SELECT id FROM commerce.tenant WHERE id = :tenant FOR NO KEY UPDATE)
    SELECT count(e.id) FROM owner
      LEFT JOIN commerce.webhook_endpoint e ON e.tenant = owner.id
""")

_DELETE = text("""
    DELETE FROM commerce.webhook_endpoint WHERE tenant = :tenant AND id = :id RETURNING id
""")

_ROTATE = text("""
    UPDATE commerce.webhook_endpoint
       SET generation = generation + 1, previous_until = now() + make_interval(secs => :overlap)
     WHERE tenant = :tenant AND id = :id
    RETURNING id
""")

_ENABLE = text("""
    UPDATE commerce.webhook_endpoint
       SET failures = 0, failing_since = NULL, trips = 0, spared_until = NULL,
           disabled_at = NULL, disabled_reason = NULL
     WHERE tenant = :tenant AND id = :id
    RETURNING id
""")

# Of those who want to try an endpoint whose pause is over, the first to lock its row may.
_FIND = text("""
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:tenants AS int[]), CAST(:ids AS uuid[])) AS w(tenant, id)),
    due AS MATERIALIZED (
        SELECT e.id FROM commerce.webhook_endpoint e JOIN wanted USING (tenant, id)
         WHERE e.spared_until <= now() AND e.disabled_at IS NULL
         ORDER BY e.id
           FOR NO KEY UPDATE OF e SKIP LOCKED),
    probe AS (
        UPDATE commerce.webhook_endpoint e
           SET spared_until = now() + make_interval(secs => :seconds)
          FROM due WHERE e.id = due.id
        RETURNING e.id)
    SELECT e.tenant, e.id, e.url, e.generation,
           coalesce(e.previous_until > now(), false) AS previous_counts,
           e.spared_until, EXISTS (SELECT FROM probe WHERE probe.id = e.id) AS is_probe,
           e.disabled_at, e.disabled_reason
      FROM commerce.webhook_endpoint e JOIN wanted USING (tenant, id)
""")

# Those that answered as ever are left alone, and so are their rows.
_LOCK = text("""
    SELECT id, clock_timestamp() AS at,
           failures, failing_since, trips, spared_until, disabled_at, disabled_reason
      FROM commerce.webhook_endpoint
     WHERE id = ANY(CAST(:ids AS uuid[])) AND (id = ANY(CAST(:failing AS uuid[])) OR failures > 0)
     ORDER BY id
       FOR NO KEY UPDATE
""")

_WRITE = text("""
    UPDATE commerce.webhook_endpoint AS e
       SET failures = h.failures, failing_since = h.failing_since, trips = h.trips,
           spared_until = h.spared_until, disabled_at = h.disabled_at,
           disabled_reason = h.disabled_reason
      FROM unnest(CAST(:ids AS uuid[]), CAST(:failures AS int[]), CAST(:since AS timestamptz[]),
                  CAST(:trips AS int[]), CAST(:spared AS timestamptz[]),
                  CAST(:disabled AS timestamptz[]), CAST(:reasons AS text[]))
        AS h(id, failures, failing_since, trips, spared_until, disabled_at, disabled_reason)
     WHERE e.id = h.id AND e.id = ANY(CAST(:ids AS uuid[]))
""")


def of_tenant(tx: AsyncSession, tenant: int) -> SqlRepository[WebhookEndpoint]:
    """Return the tenant's endpoints."""
    return SqlRepository(tx, WebhookEndpoint, tenant, WebhookEndpoint.id)


async def find(tx: AsyncSession, tenant: int, address: str) -> WebhookEndpoint | None:
    """Return the tenant's endpoint with this id or this normalised URL; the oldest, if several."""
    mine = WebhookEndpoint.tenant == tenant
    called_so = or_(WebhookEndpoint.url == address, cast(WebhookEndpoint.id, Text) == address)
    statement = select(WebhookEndpoint).where(mine, called_so).order_by(WebhookEndpoint.id)
    found: WebhookEndpoint | None = await tx.scalar(statement.limit(1))
    return found


async def register(tx: AsyncSession, endpoint: WebhookEndpoint) -> None:
    """Add an endpoint.

    Raises:
        TooManyEndpointsError: the tenant has ``MOST_ENDPOINTS`` already.
    """
    if await tx.scalar(_COUNT, {"tenant": endpoint.tenant}) >= MOST_ENDPOINTS:
        raise TooManyEndpointsError
    await of_tenant(tx, endpoint.tenant).add(endpoint)


async def remove(tx: AsyncSession, tenant: int, endpoint_id: UUID) -> bool:
    """Delete an endpoint; what is on its way there is refused. Returns whether there was one."""
    return await tx.scalar(_DELETE, {"tenant": tenant, "id": endpoint_id}) is not None


async def rotate(tx: AsyncSession, tenant: int, endpoint_id: UUID, overlap: timedelta) -> bool:
    """Give an endpoint a new secret; the one before signs as well for ``overlap`` from now on.

    A still older one signs no longer. Returns whether there is such an endpoint.
    """
    parameters = {"tenant": tenant, "id": endpoint_id, "overlap": overlap.total_seconds()}
    return await tx.scalar(_ROTATE, parameters) is not None


async def enable(tx: AsyncSession, tenant: int, endpoint_id: UUID) -> bool:
    """Forget an endpoint's failures and send to it again; returns whether there is such a one."""
    return await tx.scalar(_ENABLE, {"tenant": tenant, "id": endpoint_id}) is not None


async def find_routes(
    connection: AsyncConnection, keys: Collection[EndpointKey]
) -> dict[EndpointKey, Route]:
    """Return those of the endpoints that there are; of each that is spared, who may try it.

    Args:
        connection: one on which each statement commits itself.
        keys: which endpoints, each once.
    """
    parameters = {
        "tenants": [tenant for tenant, _ in keys],
        "ids": [endpoint for _, endpoint in keys],
        "seconds": PROBE_SECONDS,
    }
    rows = await connection.execute(_FIND, parameters)
    return {(row.tenant, row.id): Route(*row) for row in rows}


async def record(tx: AsyncSession, tallies: Mapping[UUID, Tally]) -> set[UUID]:
    """Write down how endpoints answered; returns those that are disabled from now on."""
    failing = [endpoint for endpoint, tally in tallies.items() if tally.failed or tally.gone]
    disabled: set[UUID] = set()
    changed: dict[UUID, Health] = {}
    for endpoint, at, *columns in await tx.execute(
        _LOCK, {"ids": list(tallies), "failing": failing}
    ):
        before = Health(*columns)
        health = after(before, tallies[endpoint], at)
        if health != before:
            changed[endpoint] = health
        if health.disabled_at and not before.disabled_at:
            disabled.add(endpoint)
    if changed:
        await tx.execute(_WRITE, _columns(changed))
    return disabled


def _columns(healths: Mapping[UUID, Health]) -> dict[str, object]:
    values = healths.values()
    return {
        "ids": list(healths),
        "failures": [health.failures for health in values],
        "since": [health.failing_since for health in values],
        "trips": [health.trips for health in values],
        "spared": [health.spared_until for health in values],
        "disabled": [health.disabled_at for health in values],
        "reasons": [health.disabled_reason for health in values],
    }
