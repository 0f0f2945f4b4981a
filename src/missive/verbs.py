"""Verbs of a base class, compiled to the methods that override them: a verb without a listener costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def overriding(listeners: Sequence[object], verb: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Return the bound methods of the listeners that override a verb of their base class, in order."""
    name = verb.__name__
    return tuple(getattr(one, name) for one in listeners if getattr(type(one), name) is not verb)
