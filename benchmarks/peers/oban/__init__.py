"""Oban for Python, on Postgres."""
