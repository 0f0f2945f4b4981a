"""The fixtures of the stores, for operations on each database."""

from tests.dlq.conftest import clock, store, url

__all__ = ["clock", "store", "url"]
