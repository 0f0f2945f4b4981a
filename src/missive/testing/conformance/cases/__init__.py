"""The cases, in a module for each group of the catalogue.

A case is a coroutine function that takes the driver and returns its outcome. `@case` registers it under its number.
"""

from __future__ import annotations

import importlib

_GROUPS = (
    "fidelity",
    "settlement",
    "deletions",
    "flow",
    "pressure",
    "order",
    "rebalances",
    "positions",
    "leases",
    "lifecycle",
    "faults",
    "workers",
    "dead_letters",
    "replays",
    "privacy",
    "honesty",
    "clocks",
)


def load() -> None:
    """Import the modules. Each case registers itself."""
    for group in _GROUPS:
        importlib.import_module(f"{__name__}.{group}")
