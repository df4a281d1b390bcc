"""The shop's database, read and prepared past the product, on a clock that is set by hand."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

TENANT = 1

# Found before pg_catalog's own: the product's SQL tells this time, and so do the columns' defaults.
_CLOCK = """
    CREATE SCHEMA clock;
    CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS
        $$ SELECT pg_catalog.now()
                  + pg_catalog.make_interval(secs => current_setting('clock.shift')::float8) $$;
    CREATE FUNCTION clock.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
        $$ SELECT pg_catalog.statement_timestamp()
                  + pg_catalog.make_interval(secs => current_setting('clock.shift')::float8) $$;
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        $$ SELECT pg_catalog.clock_timestamp()
                  + pg_catalog.make_interval(secs => current_setting('clock.shift')::float8) $$;
    DO $$
    DECLARE
        it record;
    BEGIN
        FOR it IN SELECT d.adrelid::regclass AS heap, a.attname AS name,
                         replace(pg_get_expr(d.adbin, d.adrelid), 'now()', 'clock.now()') AS value
                    FROM pg_attrdef d
                    JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
                   WHERE pg_get_expr(d.adbin, d.adrelid) LIKE '%now()%' LOOP
            EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT %s', it.heap, it.name, it.value);
        END LOOP;
    END
    $$;
"""

# As a replica, so that neither foreign keys nor the ledger's trigger object.
_EMPTY = "; ".join(
    [
        "SET session_replication_role = replica",
        *(
            f"DELETE FROM {table}"  # noqa: S608 - the names below
            for table in (
                "goodsyard.job",
                "goodsyard.job_done",
                "goodsyard.job_attempt",
                "goodsyard.request_key",
                "goodsyard.worker",
                "goodsyard.audit",
                "commerce.transfer",
                "commerce.payment",
                "commerce.order_line",
                "commerce.orders",
                "commerce.stock",
            )
        ),
        "RESET session_replication_role",
    ]
)

_READ = """
    SELECT json_build_object(
        'orders', (SELECT coalesce(json_object_agg(id, to_json(o)), '{}') FROM commerce.orders o),
        'lines', (SELECT coalesce(json_agg(l), '[]') FROM commerce.order_line l),
        'stock', (SELECT coalesce(json_object_agg(sku, to_json(s)), '{}') FROM commerce.stock s),
        'payments', (SELECT coalesce(json_object_agg(id, to_json(p)), '{}')
                       FROM commerce.payment p),
        'transfers', (SELECT coalesce(json_agg(t), '[]') FROM commerce.transfer t),
        'errors', (SELECT coalesce(json_agg(error), '[]') FROM goodsyard.job_attempt),
        'live', (SELECT coalesce(json_object_agg(id, to_json(j)), '{}') FROM goodsyard.job j),
        'over', (SELECT coalesce(json_object_agg(id, to_json(j)), '{}') FROM goodsyard.job_done j))
"""

Row = dict[str, Any]  # a table's row, as JSON


class Books:
    """One connection that sees what is committed."""

    def __init__(self, url: str) -> None:
        """Open a shop in the database at ``url``, which is migrated and empty."""
        conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(conninfo, autocommit=True)
        name = sql.Identifier(str(make_url(url).database))
        self._connection.execute(_CLOCK)
        for setting in ("clock.shift = '0'", "search_path = clock, pg_catalog, public"):
            self._connection.execute(
                sql.SQL("ALTER DATABASE {} SET ").format(name) + sql.SQL(setting)
            )
        self._connection.close()
        self._connection = psycopg.connect(conninfo, autocommit=True)
        self._connection.execute("INSERT INTO commerce.tenant (name) VALUES ('shop')")
        self.user: UUID = self._one(
            "INSERT INTO commerce.users (tenant, email) VALUES (%s, 'a@example.com') RETURNING id",
            TENANT,
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def empty(self) -> None:
        """Leave nothing but the tenant, its customer and the queues."""
        self._connection.execute(_EMPTY)

    def fill(self, shelves: dict[str, int]) -> None:
        """Put pieces on the shelves."""
        self._connection.execute(
            "INSERT INTO commerce.stock (tenant, sku, on_hand) "
            "SELECT %s, * FROM unnest(%s::text[], %s::int[])",
            [TENANT, list(shelves), list(shelves.values())],
        )

    def beat(self, workers: list[UUID], queues: list[str], shift: float) -> None:
        """Let worker processes beat, as a thread of each does every second, by the shop's clock."""
        self._connection.execute(
            "INSERT INTO goodsyard.worker (id, node, pid, queues, beat_at) "
            "SELECT w, 'node', 1, %s, now() + make_interval(secs => %s) "
            "FROM unnest(%s::uuid[]) AS w "
            "ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
            [queues, shift, workers],
        )

    def waiting_for_a_lock(self) -> int:
        """Return how many backends wait for another's lock."""
        waiting: int = self._one(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return waiting

    def end(self, backends: list[int]) -> None:
        """End sessions, as Postgres does with those that idle in a transaction."""
        self._connection.execute(
            "SELECT pg_terminate_backend(b) FROM unnest(%s::int[]) AS b", [backends]
        )
        # Its own way to wait for the end looks every tenth of a second.
        while self._one("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", backends):
            pass

    def read(self) -> dict[str, Any]:
        """Return everything that is committed."""
        tables: dict[str, Any] = self._one(_READ)
        return tables

    def _one(self, statement: str, *parameters: object) -> Any:  # noqa: ANN401 - as selected
        row = self._connection.execute(statement, parameters or None).fetchone()
        assert row is not None
        return row[0]
