"""The adapter conformance kit: one suite that every adapter passes on its real broker.

Fill in a `Harness`, derive a test class from `Conformance` with a fixture `harness`, and run pytest. Needs pytest.
"""

from missive.testing.conformance.bench import Bench, ConformanceError, Ledger
from missive.testing.conformance.catalogue import TITLES, Case, Verdict, case, cases
from missive.testing.conformance.harness import Harness, Sent
from missive.testing.conformance.proxy import Fault, FaultProxy
from missive.testing.conformance.suite import Conformance, certify
from missive.testing.conformance.wrapping import WrappedAdapter, WrappedSession

__all__ = [
    "TITLES",
    "Bench",
    "Case",
    "Conformance",
    "ConformanceError",
    "Fault",
    "FaultProxy",
    "Harness",
    "Ledger",
    "Sent",
    "Verdict",
    "WrappedAdapter",
    "WrappedSession",
    "case",
    "cases",
    "certify",
]
