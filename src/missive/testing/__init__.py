"""For tests: the test client and an in-memory adapter."""

from missive.testing.client import AsyncTestClient, ClientSession, Result, TestClient
from missive.testing.memory import MemoryAdapter

__all__ = ["AsyncTestClient", "ClientSession", "MemoryAdapter", "Result", "TestClient"]
