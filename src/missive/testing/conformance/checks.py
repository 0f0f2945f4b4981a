"""Failures of a case."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """The adapter does not meet a requirement of a case. The message names the requirement."""


def check(condition: object, failure: str) -> None:
    """Raise `ConformanceError` with the text `failure` unless the condition holds."""
    if not condition:
        raise ConformanceError(failure)
