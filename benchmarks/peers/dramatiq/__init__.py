"""Dramatiq on Redis."""
