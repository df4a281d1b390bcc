"""Takes work out: the Celery app, the loop each worker process runs chunks on, and the relay."""
