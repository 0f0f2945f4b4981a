"""Simulation: runs the real engine through schedules of faults, in virtual time. Each seed gives one schedule.

`simulate` is the entry for users and `schedule` runs one seed. A `world` outlives the simulated processes: it contains
the `broker`, the `ledger`, the rates of `faults` and the `trace`. A `life` is one simulated process: an engine with the
`runtime`, `loop`, `session` and `store` of the simulation. The ledger checks the promises of the engine; a broken
promise raises `SimulationFailed`.
"""

from missive.testing.simulation.faults import Faults
from missive.testing.simulation.simulate import Scenario, Transport, simulate
from missive.testing.simulation.trace import Promise, SimulationFailed

__all__ = ["Faults", "Promise", "Scenario", "SimulationFailed", "Transport", "simulate"]
