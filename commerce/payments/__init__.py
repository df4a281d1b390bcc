"""Payments: what the gateway was asked for, what it answered, and the ledger that books it."""
