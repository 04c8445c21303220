"""Packages of Celery's ecosystem, unmodified, with their own tests: with Celery, and with zerocelery in its place.

``python -m compat_tests.ecosystem [PACKAGE…]``; no part of the usual tests, for it installs much and takes long.
"""
