"""The business's tables: who buys, what is in stock, what was ordered, paid and booked."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ACCOUNTS = """
CREATE SCHEMA commerce;

CREATE TABLE commerce.tenant (
    id         int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE commerce.api_key (
    id          text PRIMARY KEY,           -- the public part of the key
    tenant      int NOT NULL REFERENCES commerce.tenant,
    name        text NOT NULL,
    secret_hash bytea NOT NULL,             -- SHA-256 of 256 random bits
    scopes      text[] NOT NULL,
    unlimited   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

-- Personal columns are nullable, so that a person can be erased and the ledger kept.
CREATE TABLE commerce.users (
    id            uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant        int NOT NULL REFERENCES commerce.tenant,
    email         text,
    username      text,
    full_name     text,
    password_hash text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    erased_at     timestamptz
);
CREATE UNIQUE INDEX users_email ON commerce.users (tenant, lower(email));
CREATE UNIQUE INDEX users_username ON commerce.users (tenant, username);
"""

ORDERS = """
CREATE TABLE commerce.stock (
    tenant   int NOT NULL,
    sku      text NOT NULL,
    on_hand  bigint NOT NULL CHECK (on_hand >= 0),
    reserved bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, sku),
    CONSTRAINT stock_never_oversold CHECK (reserved BETWEEN 0 AND on_hand)
) WITH (fillfactor = 50);

CREATE TYPE commerce.order_status AS ENUM
    ('pending', 'reserved', 'paid', 'rejected', 'payment_failed', 'cancelled', 'refunded');

CREATE TABLE commerce.orders (
    id               uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant           int NOT NULL,
    user_id          uuid NOT NULL REFERENCES commerce.users,
    currency         text NOT NULL,
    total            bigint NOT NULL CHECK (total >= 0),
    status           commerce.order_status NOT NULL DEFAULT 'pending',
    payment_method   text NOT NULL,
    metadata         jsonb NOT NULL DEFAULT '{}',
    reason           text,                  -- why it was rejected, not paid or cancelled
    cancel_requested boolean NOT NULL DEFAULT false,
    amount_refunded  bigint NOT NULL DEFAULT 0 CHECK (amount_refunded BETWEEN 0 AND total),
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX orders_user ON commerce.orders (tenant, user_id, id);
CREATE INDEX orders_newest ON commerce.orders (tenant, id);

CREATE TABLE commerce.order_line (
    order_id    uuid NOT NULL REFERENCES commerce.orders,
    line_no     smallint NOT NULL,
    tenant      int NOT NULL,
    sku         text NOT NULL,
    quantity    int NOT NULL CHECK (quantity > 0),
    unit_amount bigint NOT NULL CHECK (unit_amount >= 0),
    PRIMARY KEY (order_id, line_no)
);
"""

PAYMENTS = """
CREATE TYPE commerce.payment_state AS ENUM ('pending', 'succeeded', 'failed', 'cancelled');

CREATE TABLE commerce.payment (
    id              uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant          int NOT NULL,
    order_id        uuid REFERENCES commerce.orders,
    user_id         uuid NOT NULL REFERENCES commerce.users,
    amount          bigint NOT NULL CHECK (amount > 0),
    currency        text NOT NULL,
    payment_method  text NOT NULL,
    description     text,
    state           commerce.payment_state NOT NULL DEFAULT 'pending',
    gateway_id      text,
    failure         text,                   -- the gateway's decline code
    amount_refunded bigint NOT NULL DEFAULT 0 CHECK (amount_refunded BETWEEN 0 AND amount),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX payment_one_live_an_order ON commerce.payment (tenant, order_id)
    WHERE state IN ('pending', 'succeeded');
CREATE INDEX payment_order ON commerce.payment (order_id);

-- System accounts keep no stored balance (theirs is the sum of their transfers): else every
-- settlement in the shop would queue for two hot rows.
CREATE TABLE commerce.account (
    id       uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant   int NOT NULL REFERENCES commerce.tenant,
    code     text NOT NULL,
    currency text NOT NULL,
    UNIQUE (tenant, code, currency)
);

-- Append-only, one row a transfer: balanced by construction.
CREATE TABLE commerce.transfer (
    id         uuid PRIMARY KEY DEFAULT uuidv7(),
    tenant     int NOT NULL,
    debit      uuid NOT NULL REFERENCES commerce.account,
    credit     uuid NOT NULL REFERENCES commerce.account,
    amount     bigint NOT NULL CHECK (amount > 0),
    currency   text NOT NULL,
    code       text NOT NULL,               -- 'capture', or 'refund:' and the refund's number
    payment_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (debit <> credit),
    CONSTRAINT transfer_once UNIQUE (tenant, payment_id, code)
);

CREATE FUNCTION commerce.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: book a transfer the other way round instead';
END
$$;
CREATE TRIGGER transfer_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON commerce.transfer
    FOR EACH STATEMENT EXECUTE FUNCTION commerce.refuse_change();
"""


def upgrade() -> None:
    """Create the schema ``commerce``."""
    for statements in (ACCOUNTS, ORDERS, PAYMENTS):
        op.execute(statements)


def downgrade() -> None:
    """Drop the schema ``commerce`` with all orders and the ledger."""
    op.execute("DROP SCHEMA commerce CASCADE")
