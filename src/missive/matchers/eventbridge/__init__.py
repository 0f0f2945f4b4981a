"""The compiler from EventBridge event patterns to matchers.

`pattern` reads a document into fields and choices. It calls `operators` for each list of alternatives, which become
tests. `compiler` turns fields and choices into a composition of EventFields.

Event Ruler (https://github.com/aws/event-ruler), the library behind EventBridge, defines the meaning of a pattern.
docs/matchers.md lists the differences.
"""

from __future__ import annotations

from missive.matchers.eventbridge.compiler import from_eventbridge

__all__ = ["from_eventbridge"]
