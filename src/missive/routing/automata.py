"""The base of machines: deterministic automata that read a text character by character."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any

DEAD: Any = None
"""The state of a machine that accepts no continuation of the text."""


class Machine(ABC):
    """A deterministic automaton. States are hashable; `DEAD` is one of them."""

    exact: bool = True
    """Whether the machine accepts the same texts as its test. If not, its test must confirm a text."""
    start: Any

    @abstractmethod
    def step(self, state: Any, char: str) -> Any:
        """Return the state after one more character."""

    @abstractmethod
    def accepts(self, state: Any) -> bool:
        """Return whether the text so far passes."""

    @abstractmethod
    def distance(self, state: Any) -> int:
        """Return an estimate of the number of characters that are missing."""

    @abstractmethod
    def sees(self, char: str) -> Hashable:
        """Return a key that is equal for characters that the machine does not distinguish."""

    @abstractmethod
    def characters(self) -> Iterable[str]:
        """Return characters that represent all that the machine distinguishes, except one class of all others."""
