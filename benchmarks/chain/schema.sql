-- What an order costs whoever runs it: the tables of the order chain, in the least that is honest.

CREATE TABLE stock (
    sku integer PRIMARY KEY,
    on_hand bigint NOT NULL CHECK (on_hand >= 0)
) WITH (fillfactor = 50); -- a hot row's new versions fit beside the old ones

CREATE TABLE orders (
    id bigint PRIMARY KEY,
    status text NOT NULL CHECK (status IN ('new', 'reserved', 'paid', 'notified')),
    first_sku integer NOT NULL REFERENCES stock,
    second_sku integer NOT NULL REFERENCES stock,
    amount bigint NOT NULL CHECK (amount > 0), -- minor units
    currency text NOT NULL,
    payment_id uuid NOT NULL UNIQUE,
    CHECK (first_sku <> second_sku)
) WITH (fillfactor = 50);

CREATE TABLE payment (
    id uuid PRIMARY KEY,
    order_id bigint NOT NULL UNIQUE REFERENCES orders,
    amount bigint NOT NULL,
    currency text NOT NULL,
    gateway_id text NOT NULL
);

CREATE TABLE ledger (
    payment_id uuid NOT NULL REFERENCES payment,
    account text NOT NULL CHECK (account IN ('gateway', 'sales')),
    amount bigint NOT NULL, -- the two sides of a payment sum to nothing
    PRIMARY KEY (payment_id, account)
);

CREATE TABLE notification (
    order_id bigint PRIMARY KEY REFERENCES orders,
    sent_at timestamptz NOT NULL DEFAULT now()
);
