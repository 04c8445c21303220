"""A directory to put first on PYTHONPATH: every Python that starts with it there sees zerocelery as celery."""
