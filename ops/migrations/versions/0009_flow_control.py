"""Flow control: limits by key, shares, jobs that wait for others, schedules, shared runs."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# A kind's backlog is read lane by lane: a tenant's jobs with the same keys. What a rate or a free
# slot is worth to a job is the same for its whole lane, so a lane that is held back costs one probe
# of the index, however long it is. What waits for other jobs isn't in the index at all.
JOB = """
ALTER TABLE goodsyard.job
    ADD slot_key         text NOT NULL DEFAULT '',      -- what its concurrency is counted by
    ADD cost             real CHECK (cost > 0 AND cost < 'infinity'),  -- of its rate; null is one
    ADD start_by         timestamptz,                   -- dispatched: when its grant lapses
    ADD waits_for        smallint NOT NULL DEFAULT 0 CHECK (waits_for >= 0),
    ADD workflow         uuid,
    ADD cancel_requested boolean NOT NULL DEFAULT false;
UPDATE goodsyard.job SET limit_key = '' WHERE limit_key IS NULL;
ALTER TABLE goodsyard.job
    ALTER limit_key SET DEFAULT '',
    ALTER limit_key SET NOT NULL;
DROP INDEX goodsyard.job_ready;
CREATE INDEX job_ready ON goodsyard.job (kind, tenant, limit_key, slot_key, priority, run_at)
    WHERE state = 'waiting' AND waits_for = 0;
CREATE INDEX job_workflow ON goodsyard.job (workflow) WHERE workflow IS NOT NULL;

ALTER TABLE goodsyard.job_done ADD workflow uuid;
CREATE INDEX job_done_workflow ON goodsyard.job_done (workflow) WHERE workflow IS NOT NULL;
"""

LIMITS = """
-- What holds the jobs of a kind back, over the whole cluster; who dispatches them locks the row.
CREATE TABLE goodsyard.job_limit (
    name            text PRIMARY KEY,
    per_second      float8 CHECK (per_second > 0),      -- null: as often as may be
    burst           float8 CHECK (burst >= 1),
    concurrency     int CHECK (concurrency > 0),        -- null: as many at a time as may be
    penalised_until timestamptz,                        -- a provider asked for it
    holds           boolean NOT NULL GENERATED ALWAYS AS
        (per_second IS NOT NULL OR concurrency IS NOT NULL OR penalised_until IS NOT NULL) STORED,
    CHECK ((per_second IS NULL) = (burst IS NULL))
) WITH (fillfactor = 50);

-- A token bucket for each key of a rate; tokens are as of ts, and below none where a job cost more
-- than there was.
CREATE TABLE goodsyard.limit_bucket (
    name            text NOT NULL REFERENCES goodsyard.job_limit ON DELETE CASCADE,
    key             text NOT NULL,
    tokens          float8 NOT NULL,
    ts              timestamptz NOT NULL DEFAULT now(),
    penalised_until timestamptz,
    PRIMARY KEY (name, key)
) WITH (fillfactor = 50);

INSERT INTO goodsyard.job_limit (name, per_second, burst)
SELECT name, per_second, burst FROM goodsyard.rate;
INSERT INTO goodsyard.limit_bucket (name, key, tokens, ts)
SELECT name, '', tokens, ts FROM goodsyard.rate;
DROP TABLE goodsyard.rate;

-- How many jobs of a tenant go for one of another's, where both have jobs waiting.
CREATE TABLE goodsyard.share (
    tenant int PRIMARY KEY,
    weight real NOT NULL CHECK (weight BETWEEN 0.01 AND 100)
);
"""

WORKFLOWS = """
CREATE TABLE goodsyard.workflow (
    id           uuid PRIMARY KEY,
    tenant       int NOT NULL,
    undoes       uuid UNIQUE,            -- the abandoned one whose effects its steps make up for
    abandoned_at timestamptz,            -- cancelled, or refused: what took effect is made up for
    reason       text,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workflow_newest ON goodsyard.workflow (tenant, id);

-- Who waits for whom, within a workflow. A parent succeeds once and counts then, so the rows stay:
-- a child finds its parents' results by them.
CREATE TABLE goodsyard.dependency (
    workflow uuid NOT NULL,
    parent   uuid NOT NULL,
    child    uuid NOT NULL,
    PRIMARY KEY (workflow, parent, child)
);
CREATE INDEX dependency_child ON goodsyard.dependency (child);

-- What a step is called, and the job that makes up for it if the workflow is abandoned.
CREATE TABLE goodsyard.step (
    job_id       uuid PRIMARY KEY,
    workflow     uuid NOT NULL,
    tenant       int NOT NULL,
    name         text NOT NULL,
    undone_by    uuid,                   -- that job, once it is staged: once
    kind         text,
    version      smallint,
    max_attempts smallint,
    subject      uuid,
    limit_key    text,
    slot_key     text,
    cost         real,
    payload      jsonb,
    CHECK ((kind IS NULL) = (payload IS NULL))
);
CREATE INDEX step_workflow ON goodsyard.step (workflow);
-- The mails to somebody who is erased.
CREATE INDEX step_mail_to ON goodsyard.step (tenant, lower(payload ->> 'to'))
    WHERE kind = 'notifications.email';
"""

SCHEDULES = """
CREATE TABLE goodsyard.schedule (
    name      text PRIMARY KEY,
    last_tick timestamptz NOT NULL,      -- up to here ticks are decided: staged or given up
    paused    boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- A tick happens once, whichever relay sees it first.
CREATE TABLE goodsyard.schedule_tick (
    schedule text NOT NULL,
    tick     timestamptz NOT NULL,
    jobs     int NOT NULL,               -- how many were staged; none where one still ran
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schedule, tick)
);
"""

# One row a key: which job equal requests share. Whether they do is decided from that job's own row.
SHARED = """
CREATE TABLE goodsyard.shared_run (
    tenant     int NOT NULL,
    kind       text NOT NULL,
    key        text NOT NULL,
    job_id     uuid NOT NULL,
    refresh_id uuid,                     -- the run that will take its place; it is served meanwhile
    keep_until timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, key)
) WITH (fillfactor = 80);
CREATE INDEX shared_run_end ON goodsyard.shared_run (keep_until);
"""

BEFORE = """
DROP TABLE goodsyard.shared_run, goodsyard.schedule_tick, goodsyard.schedule,
           goodsyard.step, goodsyard.dependency, goodsyard.workflow, goodsyard.share;

CREATE TABLE goodsyard.rate (
    name       text PRIMARY KEY,
    tokens     float8 NOT NULL,
    per_second float8 NOT NULL CHECK (per_second > 0),
    burst      float8 NOT NULL CHECK (burst >= 1),
    ts         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
INSERT INTO goodsyard.rate (name, tokens, per_second, burst, ts)
SELECT l.name, coalesce(b.tokens, l.burst), l.per_second, l.burst, coalesce(b.ts, now())
  FROM goodsyard.job_limit l
  LEFT JOIN goodsyard.limit_bucket b ON b.name = l.name AND b.key = ''
 WHERE l.per_second IS NOT NULL;
DROP TABLE goodsyard.limit_bucket, goodsyard.job_limit;

DROP INDEX goodsyard.job_done_workflow, goodsyard.job_workflow, goodsyard.job_ready;
ALTER TABLE goodsyard.job_done DROP workflow;
ALTER TABLE goodsyard.job
    DROP slot_key, DROP cost, DROP start_by, DROP waits_for, DROP workflow, DROP cancel_requested,
    ALTER limit_key DROP NOT NULL,
    ALTER limit_key DROP DEFAULT;
CREATE INDEX job_ready ON goodsyard.job (kind, priority, run_at) WHERE state = 'waiting';
"""


def upgrade() -> None:
    """Add what flow control needs; limits that are set are kept."""
    for statements in (JOB, LIMITS, WORKFLOWS, SCHEDULES, SHARED):
        op.execute(statements)


def downgrade() -> None:
    """Drop it; jobs that waited for others are due at once, limits by key are forgotten."""
    op.execute(BEFORE)
