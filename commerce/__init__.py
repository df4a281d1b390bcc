"""The business: accounts, stock, orders, payments with their ledger, notifications.

In each of them ``rules`` are pure functions, ``models`` the tables and ``rows`` the statements; all
that write take the caller's transaction, and nothing here stages a job.
"""
