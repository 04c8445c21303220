"""Celery's own test suite, run against zerocelery: ``python -m compat_tests.upstream``.

Nothing of Celery is kept in this repository: its source distribution is fetched from the package index, and its tests
are run from a directory of this user's cache, file by file, each in a process of its own with a deadline.
"""
