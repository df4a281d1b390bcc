"""What was delivered and not run is counted, by reason."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DROPPED = """
-- Over all workers and all time; the reasons are told in goodsyard/dropped.py.
CREATE TABLE goodsyard.dropped (
    reason  text PRIMARY KEY,
    count   bigint NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(DROPPED)


def downgrade() -> None:
    """Drop the table with its counts."""
    op.execute("DROP TABLE goodsyard.dropped")
