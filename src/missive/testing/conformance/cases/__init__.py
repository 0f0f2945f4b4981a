"""The cases, a module for each group of the catalogue."""

from __future__ import annotations

import importlib

_GROUPS = (
    "fidelity",
    "settlement",
    "flow",
    "pressure",
    "order",
    "rebalances",
    "leases",
    "lifecycle",
    "faults",
    "dead_letters",
    "replays",
    "privacy",
    "honesty",
)


def load() -> None:
    """Import all groups; each case registers itself."""
    for group in _GROUPS:
        importlib.import_module(f"{__name__}.{group}")
