"""Tools for tests, from one handler to a whole adapter.

`client` runs single attempts, with `attempts`, `claims` and `execution` as its parts and `result` as its output.
`memory` is an in-memory adapter for the whole engine. `simulation` runs the engine through schedules of faults.
`conformance` proves an adapter on its real broker; it needs pytest and is not imported here.
"""

from missive.testing.client import AsyncTestClient, ClientSession, TestClient
from missive.testing.memory import MemoryAdapter
from missive.testing.result import Result
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
