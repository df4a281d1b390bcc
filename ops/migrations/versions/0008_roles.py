"""A relay that owns no table may make the day's partition, and nobody else may."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# It runs as its owner: a partition is made by whoever owns the table. What it is given is a date,
# every name in it says its schema, and pg_temp comes last, so a caller can slip nothing in
# (postgresql.org/docs/18/sql-createfunction.html, "Writing SECURITY DEFINER Functions Safely").
MAKE_PARTITIONS = """
ALTER FUNCTION goodsyard.make_day_partition(date)
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
REVOKE EXECUTE ON FUNCTION goodsyard.make_day_partition(date) FROM PUBLIC;
"""

AS_THE_CALLER = """
ALTER FUNCTION goodsyard.make_day_partition(date) SECURITY INVOKER RESET search_path;
GRANT EXECUTE ON FUNCTION goodsyard.make_day_partition(date) TO PUBLIC;
"""


def upgrade() -> None:
    """Let the function run as its owner, for those who were granted it."""
    op.execute(MAKE_PARTITIONS)


def downgrade() -> None:
    """Let it run as its caller again, who then has to own the tables."""
    op.execute(AS_THE_CALLER)
