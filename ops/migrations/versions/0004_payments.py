"""Payments without an order, accounts with a balance, and the gateway's events."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PAYMENTS = """
-- The gateway's events name their payment so, where they don't name it by our id.
CREATE INDEX payment_gateway_id ON commerce.payment (gateway_id) WHERE gateway_id IS NOT NULL;
-- Whoever is erased has theirs found; the flow's own payments are found by their order.
CREATE INDEX payment_alone ON commerce.payment (tenant, user_id) WHERE order_id IS NULL;
-- What the holder of the card says against the charge: for a person.
ALTER TABLE commerce.payment ADD COLUMN dispute text;

-- Which events were taken in. The provider delivers one again for days; rows stay for a month.
CREATE TABLE commerce.inbox (
    id          text PRIMARY KEY,           -- the gateway's
    kind        text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_age ON commerce.inbox (received_at);
"""

LEDGER = """
-- The accounts that the flow books on keep no balance: each settlement would queue for it. The
-- others keep theirs, under the lock that every transfer takes.
ALTER TABLE commerce.account
    ADD COLUMN balance      bigint,
    ADD COLUMN may_overdraw boolean NOT NULL DEFAULT false,
    ADD COLUMN created_at   timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT account_keeps_its_balance
        CHECK ((balance IS NULL) = (code IN ('gateway', 'sales'))),
    ADD CONSTRAINT account_not_overdrawn CHECK (may_overdraw OR balance >= 0);

ALTER TABLE commerce.transfer
    ALTER COLUMN payment_id DROP NOT NULL,
    ADD CONSTRAINT transfer_for_a_payment CHECK ((payment_id IS NULL) = (code = 'transfer'));

-- What each account was debited and credited by transfers older than the mark: so that a balance
-- sheet reads the last day, not the years.
CREATE TABLE commerce.account_sum (
    account uuid PRIMARY KEY REFERENCES commerce.account,
    tenant  int NOT NULL,
    debits  numeric NOT NULL,
    credits numeric NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE commerce.summed_up (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    upto     uuid NOT NULL                  -- the last transfer that is in account_sum
);
"""


def upgrade() -> None:
    """Add tables, columns and constraints; rows that exist obey them all."""
    op.execute(PAYMENTS)
    op.execute(LEDGER)


def downgrade() -> None:
    """Drop what came; transfers between accounts with a balance have no place before."""
    op.execute("""
        DROP TABLE commerce.summed_up, commerce.account_sum, commerce.inbox;
        ALTER TABLE commerce.transfer DROP CONSTRAINT transfer_for_a_payment,
            ALTER COLUMN payment_id SET NOT NULL;
        ALTER TABLE commerce.account DROP CONSTRAINT account_keeps_its_balance,
            DROP CONSTRAINT account_not_overdrawn, DROP COLUMN created_at,
            DROP COLUMN may_overdraw, DROP COLUMN balance;
        ALTER TABLE commerce.payment DROP COLUMN dispute;
        DROP INDEX commerce.payment_gateway_id, commerce.payment_alone;
    """)
