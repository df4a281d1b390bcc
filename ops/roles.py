"""The database roles of API, relay and worker: each may do what its statements do and no more.

They are groups that nobody signs in as (``NOLOGIN``): the operator makes a login of each, with a
password or certificate that Goodsyard never sees. The tables stay their owner's, who migrates. Not
even a worker can change or delete what is in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import psycopg
from psycopg import errors
from sqlalchemy.engine import make_url

from ops.errors import CommandError, DatabaseSilentError, one_line

_READ, _ADD, _KEEP, _LOCK_AND_DELETE = (
    "SELECT",
    "SELECT, INSERT",
    "SELECT, INSERT, UPDATE",
    "SELECT, UPDATE, DELETE",  # FOR UPDATE takes the right to update
)
_CHANGE = "SELECT, UPDATE"
_FORGET = "SELECT, DELETE"
_ADD_AND_REVOKE = "SELECT, INSERT, UPDATE (revoked_at)"
_ALL = "SELECT, INSERT, UPDATE, DELETE"


class Role(StrEnum):
    """A process that has a database role of its own, named by it."""

    API = "goodsyard_api"
    RELAY = "goodsyard_relay"
    WORKER = "goodsyard_worker"


PRIVILEGES: Final[Mapping[Role, Mapping[str, str]]] = MappingProxyType(
    {
        Role.API: {
            "public.alembic_version": _READ,
            # A job that is called off by hand moves to those that are over.
            "goodsyard.job": _ALL,
            "goodsyard.job_done": _KEEP,  # an erasure blanks what was sent
            "goodsyard.job_attempt": _CHANGE,  # the same
            "goodsyard.request_key": _KEEP,
            "goodsyard.job_limit": _KEEP,
            "goodsyard.limit_bucket": _ALL,
            "goodsyard.share": _READ,
            "goodsyard.workflow": _KEEP,
            "goodsyard.dependency": _ADD,
            "goodsyard.step": _KEEP,  # an erasure blanks what would be sent
            "goodsyard.schedule": _KEEP,
            "goodsyard.schedule_tick": _READ,
            "goodsyard.shared_run": _ALL,
            "goodsyard.queue": "SELECT, UPDATE (paused)",
            "goodsyard.worker": _READ,
            "goodsyard.dropped": _READ,
            "goodsyard.audit": _ADD,
            # No right to a tenant's plan or name: the one column is for its lock.
            "commerce.tenant": "SELECT, UPDATE (created_at)",
            "commerce.api_key": _ADD_AND_REVOKE,
            "commerce.users": _KEEP,
            "commerce.stock": _KEEP,
            "commerce.orders": _KEEP,
            "commerce.order_line": _ADD,
            "commerce.payment": _KEEP,
            "commerce.account": "SELECT, INSERT, UPDATE (balance)",
            "commerce.transfer": _ADD,
            "commerce.account_sum": _KEEP,
            "commerce.summed_up": _KEEP,
            "commerce.inbox": _ALL,  # forgets the events of a month ago
            "commerce.webhook_endpoint": _ALL,
        },
        Role.RELAY: {
            "public.alembic_version": _READ,
            "goodsyard.job": _KEEP,  # stages what is due from time to time, and word of deaths
            "goodsyard.job_done": _READ,
            "goodsyard.request_key": _LOCK_AND_DELETE,
            "goodsyard.job_limit": _KEEP,
            "goodsyard.limit_bucket": _ALL,
            "goodsyard.share": _READ,
            "goodsyard.workflow": _FORGET,
            "goodsyard.dependency": _FORGET,
            "goodsyard.step": _FORGET,
            "goodsyard.schedule": _KEEP,
            "goodsyard.schedule_tick": _ALL,
            "goodsyard.shared_run": _LOCK_AND_DELETE,
            "goodsyard.queue": _READ,
            "goodsyard.worker": _FORGET,
            "commerce.orders": _READ,
            "commerce.payment": _READ,
            "commerce.webhook_endpoint": _READ,
        },
        Role.WORKER: {
            "public.alembic_version": _READ,
            "goodsyard.job": _ALL,
            "goodsyard.job_done": _ADD,
            "goodsyard.job_attempt": _ADD,
            "goodsyard.job_limit": _KEEP,  # a provider that answers 429 is left alone
            "goodsyard.limit_bucket": _KEEP,
            "goodsyard.workflow": _KEEP,
            "goodsyard.dependency": _ADD,
            "goodsyard.step": _CHANGE,
            "goodsyard.shared_run": _LOCK_AND_DELETE,
            "goodsyard.queue": _READ,
            "goodsyard.worker": _ALL,
            "goodsyard.dropped": _KEEP,
            # Of a customer, the address that a receipt goes to.
            "commerce.users": "SELECT (id, tenant, email)",
            "commerce.stock": _CHANGE,
            "commerce.orders": _CHANGE,
            "commerce.order_line": _READ,
            "commerce.payment": _KEEP,
            "commerce.account": _ADD,
            "commerce.transfer": _ADD,
            "commerce.webhook_endpoint": _CHANGE,
        },
    }
)
"""What each role may do to each table; what isn't here, it may not."""

_MAKE_PARTITIONS: Final = "goodsyard.make_day_partition(date)"


def statements() -> Iterator[str]:
    """Return the SQL that makes the roles and gives each its rights, those of before taken away."""
    for role in Role:
        yield (
            f"DO $$ BEGIN IF to_regrole('{role}') IS NULL"
            f" THEN CREATE ROLE {role} NOLOGIN; END IF; END $$"
        )
    everybody = ", ".join(["PUBLIC", *Role])
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA goodsyard, commerce FROM {everybody}"
    yield f"REVOKE ALL ON FUNCTION {_MAKE_PARTITIONS} FROM {everybody}"
    yield f"GRANT USAGE ON SCHEMA goodsyard, commerce TO {', '.join(Role)}"
    for role, tables in PRIVILEGES.items():
        for table, privileges in tables.items():
            yield f"GRANT {privileges} ON {table} TO {role}"
    yield f"GRANT EXECUTE ON FUNCTION {_MAKE_PARTITIONS} TO {Role.RELAY}"


def grant(database_url: str) -> None:
    """Make the roles where there are none, and give them their rights in this database, or nothing.

    Raises:
        CommandError: the database doesn't answer, lacks our tables, or its user may not do this.
    """
    conninfo = make_url(database_url).set(drivername="postgresql")
    try:
        with psycopg.connect(conninfo.render_as_string(hide_password=False)) as connection:
            for statement in statements():
                connection.execute(statement.encode())
    except psycopg.OperationalError as error:
        raise DatabaseSilentError(error) from error
    except errors.InsufficientPrivilege as error:
        raise CommandError(
            f"This user may not do that: {one_line(error)}. Nothing was changed. Run it as the "
            "owner of the tables; making roles takes CREATEROLE as well, or let an administrator "
            "run what `goodsyard grant --sql` prints."
        ) from error
    except (errors.UndefinedTable, errors.InvalidSchemaName, errors.UndefinedFunction) as error:
        raise CommandError(
            f"The database lacks what this version needs: {one_line(error)}. Nothing was changed. "
            "Run `goodsyard migrate` first."
        ) from error
