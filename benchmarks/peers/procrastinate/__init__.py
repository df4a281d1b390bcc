"""Procrastinate, on Postgres."""
