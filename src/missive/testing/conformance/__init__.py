"""The adapter conformance kit: one suite that every adapter passes on its real broker.

Fill in a `Harness`, derive a test class from `Conformance` with a fixture `harness`, and run pytest. Needs pytest.
"""

from missive.testing.conformance.catalogue import TITLES, Case, CaseOutcome, all_cases, case
from missive.testing.conformance.driver import ConformanceError, DeliveryLog, Driver
from missive.testing.conformance.harness import Harness, Sent
from missive.testing.conformance.proxy import Fault, FaultProxy
from missive.testing.conformance.suite import Conformance, certify
from missive.testing.conformance.wrapping import WrappedAdapter, WrappedSession

__all__ = [
    "TITLES",
    "Case",
    "CaseOutcome",
    "Conformance",
    "ConformanceError",
    "DeliveryLog",
    "Driver",
    "Fault",
    "FaultProxy",
    "Harness",
    "Sent",
    "WrappedAdapter",
    "WrappedSession",
    "all_cases",
    "case",
    "certify",
]
