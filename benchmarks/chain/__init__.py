"""The order chain as a system without orders of its own runs it: the same three steps for all.

Reserve (two stock rows, the order's status), charge (one call to the gateway; then the payment, two
ledger sides and the status), notify (the notification, the status): one commit each, and each step
changes nothing the second time. Synchronous in ``chain.threads``, asynchronous in ``chain.loop``.
"""
