"""Huey on Redis."""
