"""People who sign in with a role of their own, and what each tenant's plan may ask for."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ACCESS = """
ALTER TABLE commerce.tenant ADD COLUMN plan text NOT NULL DEFAULT 'standard'
    CHECK (plan IN ('free', 'standard', 'unlimited'));

ALTER TABLE commerce.users ADD COLUMN role text NOT NULL DEFAULT 'customer'
    CHECK (role IN ('customer', 'support', 'admin'));
-- Access tokens name theirs: those of an earlier one work no more.
ALTER TABLE commerce.users ADD COLUMN token_generation int NOT NULL DEFAULT 1;

-- Who signs in may leave out the tenant; these hold only those who can sign in at all.
CREATE INDEX users_sign_in_email ON commerce.users (lower(email))
    WHERE password_hash IS NOT NULL;
CREATE INDEX users_sign_in_username ON commerce.users (username)
    WHERE password_hash IS NOT NULL;
CREATE INDEX users_admins ON commerce.users (tenant, id) WHERE role = 'admin';
"""

# Who is erased is found in the history of mails, and in no other kind's.
MAILS = """
CREATE INDEX job_done_mail_to ON goodsyard.job_done (tenant, lower(payload ->> 'to'))
    WHERE kind = 'notifications.email';
"""

NO_ACCESS = """
DROP INDEX goodsyard.job_done_mail_to;
DROP INDEX commerce.users_admins;
DROP INDEX commerce.users_sign_in_username;
DROP INDEX commerce.users_sign_in_email;
ALTER TABLE commerce.users DROP COLUMN token_generation;
ALTER TABLE commerce.users DROP COLUMN role;
ALTER TABLE commerce.tenant DROP COLUMN plan;
"""


def upgrade() -> None:
    """Give users roles and tenants plans; let mails be found by whom they went to."""
    op.execute(ACCESS)
    op.execute(MAILS)


def downgrade() -> None:
    """Take both away again: everybody is a customer, and nobody signs in."""
    op.execute(NO_ACCESS)
