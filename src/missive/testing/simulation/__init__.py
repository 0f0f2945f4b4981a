"""Simulation: schedules of crash, redelivery, reordering, lost answers and lost leases, in virtual time and by seed."""

from missive.testing.simulation.faults import Faults
from missive.testing.simulation.simulate import Scenario, Transport, simulate
from missive.testing.simulation.trace import Promise, SimulationFailed

__all__ = ["Faults", "Promise", "Scenario", "SimulationFailed", "Transport", "simulate"]
