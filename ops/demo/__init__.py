"""``make demo``: real orders through the whole system, and the books checked from outside it."""
