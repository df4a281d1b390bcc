"""Measures what flow control promises: limits, fairness, priorities, and what they cost."""
