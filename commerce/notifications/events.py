"""What webhooks tell of, and who wants to hear it: amounts, states and ids, and nobody's data.

The queries return a row for each event and endpoint that wants it, straight from the rows that have
just changed: the tenant, the endpoint and the event as the job carries it.
"""

from __future__ import annotations

ORDER_EVENTS = (
    "order.reserved",
    "order.paid",
    "order.rejected",
    "order.payment_failed",
    "order.cancelled",
    "order.refunded",
)
PAYMENT_EVENTS = (
    "payment.succeeded",
    "payment.failed",
    "payment.cancelled",
    "payment.refunded",
)
JOB_DEAD = "job.dead"

SUBSCRIPTIONS = (
    "order.*",
    "payment.*",
    *ORDER_EVENTS,
    *PAYMENT_EVENTS,
    JOB_DEAD,
)
"""What an endpoint may ask for: events by name, or all of a family."""

# Where nobody listens at all, the last line spares each row its event: a kept plan, which doesn't
# know, would put them together first (1 ms for 200 orders).
_FOR_EACH_LISTENER = """
    SELECT e.tenant, e.id,
           jsonb_build_object('endpoint_id', e.id, 'event', c.event,
                              'occurred_at', clock_timestamp(), 'data', c.data)
      FROM happened c
      JOIN commerce.webhook_endpoint e ON e.tenant = c.tenant
     WHERE e.disabled_at IS NULL
       AND e.events && ARRAY[c.event, split_part(c.event, '.', 1) || '.*']
       AND EXISTS (SELECT FROM commerce.webhook_endpoint WHERE disabled_at IS NULL)
"""

# What was given back of an order or a payment is the last that happens to it.
CHANGED = f"""
    WITH happened AS (
        SELECT o.tenant,
               'order.' || CASE WHEN o.amount_refunded > 0 THEN 'refunded'
                                ELSE o.status::text END AS event,
               jsonb_build_object(
                   'id', o.id, 'status', o.status, 'reason', o.reason, 'user_id', o.user_id,
                   'total', jsonb_build_object('amount', o.total, 'currency', o.currency),
                   'amount_refunded', o.amount_refunded) AS data
          FROM commerce.orders o
         WHERE o.id = ANY(CAST(:orders AS uuid[]))
         UNION ALL
        SELECT p.tenant,
               'payment.' || CASE WHEN p.amount_refunded > 0 THEN 'refunded'
                                  ELSE p.state::text END,
               jsonb_build_object(
                   'id', p.id, 'status', p.state, 'failure', p.failure, 'order_id', p.order_id,
                   'user_id', p.user_id,
                   'amount', jsonb_build_object('amount', p.amount, 'currency', p.currency),
                   'amount_refunded', p.amount_refunded)
          FROM commerce.payment p
         WHERE p.id = ANY(CAST(:payments AS uuid[])))
    {_FOR_EACH_LISTENER}
"""  # noqa: S608 - what is put in is the constant above
"""Of orders and payments, what each has just become; parameters ``orders`` and ``payments``."""

DIED = f"""
    WITH happened AS (
        SELECT d.tenant, '{JOB_DEAD}' AS event,
               jsonb_build_object('id', d.id, 'kind', d.kind, 'reason', d.reason,
                                  'subject', d.subject) AS data
          FROM unnest(CAST(:tenants AS int[]), CAST(:ids AS uuid[]), CAST(:kinds AS text[]),
                      CAST(:subjects AS uuid[]), CAST(:reasons AS text[]))
            AS d(tenant, id, kind, subject, reason))
    {_FOR_EACH_LISTENER}
"""  # noqa: S608 - what is put in are the constants above
"""Of jobs that have just died; parameters ``tenants, ids, kinds, subjects, reasons``."""
