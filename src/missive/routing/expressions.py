"""Regular expressions as machines, to build example texts. The expression itself confirms each text."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from missive.routing.automata import DEAD, Machine

_MAX_NODES = 400
"""Nodes of a machine. A longer expression has no machine."""
_SAMPLES = "x0_- .\n\té"
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": lambda char: char in "0123456789",
    "CATEGORY_SPACE": lambda char: char in " \t\n\r\f\v",
    "CATEGORY_WORD": lambda char: char.isascii() and (char.isalnum() or char == "_"),
}
_Test = Callable[[str], bool]


class _Unsupported(Exception):
    """The expression has a construct that has no machine."""


class _ExpressionMachine(Machine):
    """A non-deterministic automaton. The state is the set of nodes that the text so far may have reached."""

    exact = False

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        parser: Any = re._parser  # type: ignore[attr-defined]  # noqa: SLF001 - the only parser of expressions
        parsed = parser.parse(pattern)
        self._ignore_case = ignore_case or bool(parsed.state.flags & re.IGNORECASE)
        self._dot_all = bool(parsed.state.flags & re.DOTALL)
        self._skips: list[list[int]] = []
        self._edges: list[tuple[_Test, int] | None] = []
        self._characters: dict[str, None] = {}
        begin = self._node()
        self._end = self._sequence(parsed, begin)
        self._left = self._distances()
        self.start = self._closure([begin])

    def _node(self) -> int:
        if len(self._skips) >= _MAX_NODES:
            raise _Unsupported
        self._skips.append([])
        self._edges.append(None)
        return len(self._skips) - 1

    def _sequence(self, items: Iterable[tuple[Any, Any]], at: int) -> int:
        for kind, value in items:
            at = self._item(str(kind), value, at)
        return at

    def _item(self, kind: str, value: Any, at: int) -> int:
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, item = value
            return self._repeat(least, most, item, at)
        if kind == "SUBPATTERN":
            return self._sequence(value[3], at)
        if kind == "BRANCH":
            end = self._node()
            for branch in value[1]:
                begin = self._node()
                self._skips[at].append(begin)
                self._skips[self._sequence(branch, begin)].append(end)
            return end
        if kind == "AT":
            return at
        end = self._node()
        self._edges[at] = (self._test(kind, value), end)
        return end

    def _repeat(self, least: int, most: Any, item: Any, at: int) -> int:
        for _ in range(least):
            at = self._sequence(item, self._fresh(at))
        if str(most) == "MAXREPEAT":
            loop = self._fresh(at)
            self._skips[self._sequence(item, self._fresh(loop))].append(loop)
            return self._fresh(loop)
        end = self._node()
        for _ in range(most - least):
            self._skips[at].append(end)
            at = self._sequence(item, self._fresh(at))
        self._skips[at].append(end)
        return end

    def _fresh(self, at: int) -> int:
        node = self._node()
        self._skips[at].append(node)
        return node

    def _test(self, kind: str, value: Any) -> _Test:
        if kind == "ANY":
            return (lambda _: True) if self._dot_all else (lambda char: char != "\n")
        if kind == "IN":
            negated = str(value[0][0]) == "NEGATE"
            tests = [self._test(str(one), inner) for one, inner in value[negated:]]
            return lambda char: any(test(char) for test in tests) is not negated
        if kind == "RANGE":
            low, high = value
            self._know(*(chr(one) for one in (low, high, low - 1, high + 1) if 0 <= one < 0x110000))  # noqa: PLR2004 - Unicode
            return self._any_case(lambda char: low <= ord(char) <= high)
        if kind in ("LITERAL", "NOT_LITERAL"):
            self._know(chr(value))
            equal = self._any_case(lambda char: ord(char) == value)
            return equal if kind == "LITERAL" else lambda char: not equal(char)
        if kind == "CATEGORY":
            name = str(value)
            category = _CATEGORIES.get(name.replace("_NOT_", "_"))
            if category is not None:
                return category if "_NOT_" not in name else lambda char: not category(char)
        raise _Unsupported

    def _any_case(self, test: _Test) -> _Test:
        if not self._ignore_case:
            return test
        return lambda char: any(len(one) == 1 and test(one) for one in (char, char.lower(), char.upper()))

    def _know(self, *chars: str) -> None:
        for char in chars:
            self._characters[char] = None
            if self._ignore_case:
                self._characters |= dict.fromkeys(one for one in (char.lower(), char.upper()) if len(one) == 1)

    def _distances(self) -> list[int]:
        """Return the least number of characters from each node to the end."""
        left = [_MAX_NODES * 2] * len(self._skips)
        left[self._end] = 0
        changed = True
        while changed:
            changed = False
            for node, skips in enumerate(self._skips):
                edge = self._edges[node]
                least = min([left[node], *(left[other] for other in skips)])
                least = least if edge is None else min(least, left[edge[1]] + 1)
                if least < left[node]:
                    left[node], changed = least, True
        return left

    def _closure(self, nodes: list[int]) -> frozenset[int]:
        found = dict.fromkeys(nodes)
        pending = list(found)
        for node in pending:
            for other in self._skips[node]:
                if other not in found:
                    found[other] = None
                    pending.append(other)
        return frozenset(found)

    def step(self, state: frozenset[int], char: str) -> Any:
        reached = [edge[1] for node in state if (edge := self._edges[node]) is not None and edge[0](char)]
        return self._closure(reached) if reached else DEAD

    def accepts(self, state: frozenset[int]) -> bool:
        return self._end in state

    def distance(self, state: frozenset[int]) -> int:
        return min(self._left[node] for node in state)

    def sees(self, char: str) -> Hashable:
        return tuple(edge[0](char) for edge in self._edges if edge is not None)

    def characters(self) -> Iterable[str]:
        return [*self._characters, *_SAMPLES]


def expression_machine(pattern: str, *, ignore_case: bool) -> Machine | None:
    """Return the machine of a regular expression, or None if the expression is too long or unusual."""
    try:
        return _ExpressionMachine(pattern, ignore_case=ignore_case)
    except (_Unsupported, re.error, RecursionError, OverflowError):
        return None
