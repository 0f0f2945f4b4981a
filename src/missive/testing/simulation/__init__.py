"""Simulation: runs the real engine through schedules of faults, in virtual time. Each seed gives one schedule.

`simulate` is the entry for users, and `schedule` runs one seed. A `world` outlives the simulated processes. It contains
the `broker`, the `faults`, the `trace`, and the `ledger`, which checks the promises of the engine for each `entry` and
`outage`. A `life` is one simulated process: an engine with a simulated `runtime`, `loop`, `session` and `store`. A
broken promise raises `SimulationFailed`.
"""

from missive.testing.simulation.faults import Faults
from missive.testing.simulation.simulate import Scenario, Transport, simulate
from missive.testing.simulation.trace import Promise, SimulationFailed

__all__ = ["Faults", "Promise", "Scenario", "SimulationFailed", "Transport", "simulate"]
