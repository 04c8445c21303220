"""What a worker is, by Celery's import paths."""
