"""DBOS, on Postgres."""
