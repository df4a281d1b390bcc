"""${message}."""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """${message}."""
    op.execute("SET LOCAL lock_timeout = '5s'")  # never queue the shop behind a schema change


def downgrade() -> None:
    """Undo: ${message}."""
