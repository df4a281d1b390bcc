"""The job engine's tables: the queue's memory, laid out so that the hot heap stays small."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Live and dead jobs only: a job that ends well moves to job_done in the statement that ends it, so
# the heap that relays and workers touch stays a few megabytes whatever the history.
JOB = """
CREATE SCHEMA goodsyard;

CREATE TYPE goodsyard.job_state AS ENUM
    ('waiting', 'dispatched', 'running', 'succeeded', 'dead', 'cancelled');

CREATE TABLE goodsyard.job (
    id            uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant        int NOT NULL,
    kind          text NOT NULL,
    version       smallint NOT NULL DEFAULT 1,
    state         goodsyard.job_state NOT NULL DEFAULT 'waiting',
    priority      smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    run_at        timestamptz NOT NULL DEFAULT now(),  -- when it is due; dispatch never touches it
    deadline      timestamptz,          -- dispatched: time to send again; running: end of the lease
    fence         int NOT NULL DEFAULT 0,              -- grows by one a dispatch, never shrinks
    attempts      smallint NOT NULL DEFAULT 0,         -- failures a handler or provider reported
    lost          smallint NOT NULL DEFAULT 0,         -- deliveries nobody answered for
    max_attempts  smallint NOT NULL,
    claimed_by    uuid,
    subject       uuid,                                -- the order or payment it works on
    parent_id     uuid,
    unique_key    text,
    limit_key     text,
    trace_context text,
    payload       jsonb NOT NULL,
    result        jsonb,
    error         text,
    reason        text,                                -- of a dead one
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    finished_at   timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01,
        autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX job_ready ON goodsyard.job (kind, priority, run_at) WHERE state = 'waiting';
CREATE INDEX job_deadline ON goodsyard.job (deadline) WHERE state IN ('dispatched', 'running');
CREATE INDEX job_dead ON goodsyard.job (tenant, id) WHERE state = 'dead';
CREATE INDEX job_subject ON goodsyard.job (subject) WHERE subject IS NOT NULL;
CREATE UNIQUE INDEX job_unique ON goodsyard.job (tenant, kind, unique_key)
    WHERE unique_key IS NOT NULL AND state IN ('waiting', 'dispatched', 'running');
"""

# Finished jobs, a partition a day by the time inside the uuidv7: dropping a day costs milliseconds.
JOB_DONE = """
CREATE TABLE goodsyard.job_done (LIKE goodsyard.job INCLUDING DEFAULTS, PRIMARY KEY (tenant, id))
    PARTITION BY RANGE (id);
CREATE TABLE goodsyard.job_done_default PARTITION OF goodsyard.job_done DEFAULT;
-- The exceptions of the history, found without reading through it; a success costs nothing here.
CREATE INDEX job_done_cancelled ON goodsyard.job_done (tenant, id) WHERE state = 'cancelled';

CREATE FUNCTION goodsyard.first_id_of(day date) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;

CREATE FUNCTION goodsyard.make_day_partition(day date) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    name text := 'job_done_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- Relays take turns.
    PERFORM pg_advisory_xact_lock('goodsyard.job_done'::regclass::oid::bigint);
    IF to_regclass('goodsyard.' || name) IS NULL THEN
        EXECUTE format('CREATE TABLE goodsyard.%I PARTITION OF goodsyard.job_done '
                       'FOR VALUES FROM (%L) TO (%L)', name,
                       goodsyard.first_id_of(day), goodsyard.first_id_of(day + 1));
    END IF;
EXCEPTION WHEN check_violation THEN
    -- A wrong clock made ids of that day before it came: it stays in the default partition, and
    -- the other days have theirs.
    RAISE NOTICE '% has no partition of its own: %', day, SQLERRM;
END
$$;

SELECT goodsyard.make_day_partition((now() AT TIME ZONE 'UTC')::date + n)
  FROM generate_series(0, 7) AS n;
"""

OTHERS = """
-- Only attempts that did not succeed: a success is the job_done row itself.
CREATE TABLE goodsyard.job_attempt (
    job_id      uuid NOT NULL,
    attempt     smallint NOT NULL,
    worker      uuid,
    started_at  timestamptz,
    finished_at timestamptz NOT NULL DEFAULT now(),
    error       text NOT NULL
);
CREATE INDEX job_attempt_job ON goodsyard.job_attempt (job_id);

CREATE TABLE goodsyard.request_key (
    tenant     int NOT NULL,
    key        text NOT NULL,
    hash       bytea NOT NULL,
    resource   jsonb NOT NULL,
    expires_at timestamptz NOT NULL DEFAULT now() + interval '30 days',
    PRIMARY KEY (tenant, key)
);
CREATE INDEX request_key_expiry ON goodsyard.request_key (expires_at);

-- One token bucket for the whole cluster a limited name; tokens are as of ts.
CREATE TABLE goodsyard.rate (
    name       text PRIMARY KEY,
    tokens     float8 NOT NULL,
    per_second float8 NOT NULL CHECK (per_second > 0),
    burst      float8 NOT NULL CHECK (burst >= 1),
    ts         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE goodsyard.queue (
    name   text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false
);
INSERT INTO goodsyard.queue (name)
VALUES ('orders'), ('payments'), ('notifications'), ('submit'), ('quarantine');

-- One row a worker process, beaten from a thread of it.
CREATE TABLE goodsyard.worker (
    id         uuid PRIMARY KEY,
    node       text NOT NULL,
    pid        int NOT NULL,
    queues     text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- What people did to jobs and queues by hand.
CREATE TABLE goodsyard.audit (
    id     uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant int NOT NULL,
    actor  text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_target ON goodsyard.audit (tenant, target);
"""


def upgrade() -> None:
    """Create the schema ``goodsyard``."""
    for statements in (JOB, JOB_DONE, OTHERS):
        op.execute(statements)


def downgrade() -> None:
    """Drop the schema ``goodsyard`` with all jobs."""
    op.execute("DROP SCHEMA goodsyard CASCADE")
