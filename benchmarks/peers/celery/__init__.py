"""Celery on Redis, two ways: processes as it comes, and the pool that is fastest for each load."""
