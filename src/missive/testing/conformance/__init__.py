"""The adapter conformance kit: one suite that every adapter passes on its real broker. It needs pytest.

An author supplies a `harness` (publish, inspect and break the broker); the kit returns one test per case. The `suite`
takes a case from the `catalogue` and runs it with a `driver`, which opens sessions on a `host` and engines on adapters
of `wrapping`, causes faults with a `proxy`, and writes the `delivery_log`; `processes` runs the command line. `checks`
raises the failure of a case. At the end, `balance` accounts for every message, the outcome enters the `table`, and the
`plugin` writes the table to a file. `cases` holds the cases in groups, and `broken` the adapters that they must catch.
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
