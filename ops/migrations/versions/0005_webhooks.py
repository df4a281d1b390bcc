"""Where tenants want to be told of events."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ENDPOINTS = """
CREATE TABLE commerce.webhook_endpoint (
    id              uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant          int NOT NULL REFERENCES commerce.tenant,
    url             text NOT NULL CHECK (length(url) <= 2000),
    events          text[] NOT NULL CHECK (cardinality(events) > 0),
    generation      int NOT NULL DEFAULT 1,  -- of its secret, which is computed and never stored
    previous_until  timestamptz,             -- until when the secret before that signs as well
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- How it has answered lately: commerce/notifications/health.py.
    failures        int NOT NULL DEFAULT 0,
    failing_since   timestamptz,
    trips           int NOT NULL DEFAULT 0,
    spared_until    timestamptz,
    disabled_at     timestamptz,
    disabled_reason text
) WITH (fillfactor = 80);
CREATE INDEX webhook_endpoint_newest ON commerce.webhook_endpoint (tenant, id);

-- What was delivered to an endpoint, to be found for a replay; other successes cost nothing here.
CREATE INDEX job_done_webhook ON goodsyard.job_done (subject, id)
    WHERE kind = 'notifications.webhook';
"""


def upgrade() -> None:
    """Create the table and its indexes."""
    op.execute(ENDPOINTS)


def downgrade() -> None:
    """Drop the table; nobody is told of anything any more."""
    op.execute("DROP INDEX goodsyard.job_done_webhook; DROP TABLE commerce.webhook_endpoint")
