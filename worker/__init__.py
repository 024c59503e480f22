"""The Celery workers: ingest of files, the scheduler, the slice runner. Imports `store`, `models` and `domain`."""
