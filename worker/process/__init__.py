"""The process that uses torch: how Celery starts it, and what it does with each turn."""
