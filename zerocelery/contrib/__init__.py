"""Useful, and not needed by everybody."""
