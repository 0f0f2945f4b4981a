"""The adapter conformance kit: one suite that every adapter passes on its real broker. It needs pytest.

An author supplies a `Harness` (publish, inspect and break the broker); the kit returns one test per case.
The `suite` takes cases from the `catalogue`, runs each one with a `driver`, and enters its outcome in the `table`;
`cases` holds the cases in groups, and `broken` holds adapters that the cases must catch.
"""

from missive.testing.conformance.catalogue import TITLES, Case, CaseOutcome, all_cases, case
from missive.testing.conformance.checks import ConformanceError
from missive.testing.conformance.delivery_log import DeliveryLog
from missive.testing.conformance.driver import Driver
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
