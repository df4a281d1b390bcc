"""Goodsyard seen from Celery's side: worker and broker nodes of pytest-celery."""
