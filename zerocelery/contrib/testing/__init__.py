"""What tests of Celery apps need."""
