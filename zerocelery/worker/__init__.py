"""The worker as an object, and what its process knows."""

from zerocelery.worker.worker import WorkController

__all__ = ("WorkController",)
