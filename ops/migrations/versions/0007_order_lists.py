"""Orders of one status are found by index, however rare they are in the tenant's history."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# An order under way is listed as pending for as long as it is: that it was reserved meanwhile then
# stays an update in place, which touches no index. Only its end moves it in the list.
ORDER_LISTS = """
ALTER TABLE commerce.orders ADD COLUMN listed_as commerce.order_status NOT NULL
    GENERATED ALWAYS AS (CASE WHEN status = 'reserved' THEN 'pending' ELSE status END) STORED;
CREATE INDEX orders_listed ON commerce.orders (tenant, listed_as, id);
"""


def upgrade() -> None:
    """Add the column and its index."""
    op.execute(ORDER_LISTS)


def downgrade() -> None:
    """Drop the column, and its index with it."""
    op.execute("ALTER TABLE commerce.orders DROP COLUMN listed_as")
