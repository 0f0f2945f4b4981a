"""Telemetry: reports to an operator about a run. Input: events of the engine, in chunks. Output: log lines.

`observer` is the contract between the engine and its listeners. `failures` logs each kind of failure, and `sources` the
connections and the backlog of the sources.
"""

from missive.telemetry.failures import FailureLog
from missive.telemetry.observer import Attempted, Observer, Observers
from missive.telemetry.sources import SourceLog

__all__ = ["Attempted", "FailureLog", "Observer", "Observers", "SourceLog"]
