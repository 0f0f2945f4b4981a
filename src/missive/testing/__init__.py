"""For tests: the test client, an in-memory adapter, and the simulation of schedules of faults."""

from missive.testing.client import AsyncTestClient, ClientSession, Result, TestClient
from missive.testing.memory import MemoryAdapter
from missive.testing.simulation import Faults, SimulationFailed, simulate

__all__ = [
    "AsyncTestClient",
    "ClientSession",
    "Faults",
    "MemoryAdapter",
    "Result",
    "SimulationFailed",
    "TestClient",
    "simulate",
]
