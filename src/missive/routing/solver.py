"""The solver: find a value that passes some tests and fails others, or prove that there is none.

The kinds of values are solved one by one: text by machines, numbers by the points at which a test can change its
answer, lists by their elements. The work of one search is bounded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise, product
from typing import Any, Final

import msgspec

from missive.matchers.network import Cidr
from missive.matchers.selectors import Place
from missive.matchers.tests import (
    Absent,
    AnythingBut,
    Equals,
    Every,
    IsInstance,
    NoneOf,
    OneOf,
    Present,
    Range,
    Some,
    Test,
)
from missive.matchers.text import Prefix, Regex, Substring, Suffix, Wildcard
from missive.matchers.values import Scalar
from missive.routing.bounds import bounds_of
from missive.routing.kinds import ENUMERABLE, Kinds, kinds
from missive.routing.normal import DIALECTS, literals_of
from missive.routing.samples import samples
from missive.routing.texts import texts

_MAX_SAMPLES = 60
"""Sample values that are tried before the search."""
_MAX_ALTERNATIVES = 32
"""Alternatives of a composition of tests up to which it is solved."""
_MAX_TEXTS = 20
"""Texts that a search offers to tests that have no machine."""
_LARGEST = sys.float_info.max

_KNOWN = (
    Equals, OneOf, Range, IsInstance, Prefix, Suffix, Substring, Wildcard, Cidr, Regex, Some, Every, *DIALECTS
)  # fmt: skip
"""Tests whose meaning is known. Compare exact types: a user's subclass may have another meaning."""


class _Answer:
    """The answer of a search that found no value."""

    __slots__ = ()


NONE: Final = _Answer()
"""It is proved that no value passes."""
UNSOLVED: Final = _Answer()
"""Neither a value nor a proof was found."""


class Domain(msgspec.Struct, frozen=True):
    """The values that a place can hold."""

    kinds: Kinds
    elements: Kinds = frozenset()
    """The kinds of the elements of a list."""
    json: bool = False
    """Whether the values come from JSON, which has no infinity."""
    header: bool = False
    """Whether the values belong to a header: bytes are not UTF-8, and a tuple has several elements."""

    @property
    def inside(self) -> Domain:
        """The domain of the elements of a list."""
        return Domain(self.elements, self.elements if not self.header else frozenset(), self.json, self.header)

    def has(self, value: Any) -> bool:
        """Return whether a value is in the domain."""
        kind = "null" if value is None else type(value).__name__
        if kind not in self.kinds:
            return False
        if self.json and type(value) is float:
            return math.isfinite(value)
        if self.header and isinstance(value, bytes):
            return not _is_text(value)
        if isinstance(value, (list, tuple)):
            return (len(value) > 1 or not self.header) and all(map(self.inside.has, value))
        return True


_JSON: Kinds = frozenset({"null", "bool", "int", "float", "str", "list", "dict"})
_DECODED: Kinds = _JSON | {"bytes", "tuple", "other"}
_CONTAINERS: Kinds = frozenset({"list", "tuple", "dict"})
_DOMAINS = {
    "header": Domain(frozenset({"str", "bytes", "tuple"}), frozenset({"str", "bytes"}), header=True),
    "topic": Domain(frozenset({"str"})),
    "key": Domain(frozenset({"str", "bytes"})),
    "body": Domain(frozenset({"bytes"})),
    "json field": Domain(_JSON, _JSON, json=True),
    "field": Domain(_DECODED, _DECODED),
    "json event": Domain(_JSON - _CONTAINERS, json=True),
    "event": Domain(_DECODED - _CONTAINERS),
}


def domain_of(place: Place, *, json: bool) -> Domain:
    """Return the values that a place can hold. `json` means that the body is decoded as JSON."""
    return _DOMAINS[f"json {place[0]}" if json and place[0] in {"field", "event"} else place[0]]


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=16_384)
def solve(domain: Domain, positives: tuple[Test, ...], negatives: tuple[Test, ...]) -> Any:
    """Return a value of the domain that passes all positive and no negative tests, or `NONE`, or `UNSOLVED`.

    A user's test is called, and may raise any exception.
    """
    answer: Any = NONE
    alternatives = list(islice(_alternatives(positives, negatives), _MAX_ALTERNATIVES + 1))
    for wanted, unwanted in alternatives[:_MAX_ALTERNATIVES]:
        for kind in _ORDER:
            if kind in domain.kinds and all(kind in kinds(test) for test in wanted):
                value = _SOLVERS[kind](domain, kind, wanted, unwanted)
                if not isinstance(value, _Answer):
                    return value
                if value is UNSOLVED:
                    answer = UNSOLVED
    return answer if len(alternatives) <= _MAX_ALTERNATIVES else UNSOLVED


_Literals = tuple[tuple[Test, ...], tuple[Test, ...]]


def _alternatives(positives: Sequence[Test], negatives: Sequence[Test]) -> Iterator[_Literals]:
    """Yield the ways to meet all tests, each as elementary tests that must pass and tests that must fail."""
    # With this many ways of one test, there are too many alternatives anyway.
    choices = [list(islice(_ways(test, positive=True), _MAX_ALTERNATIVES + 1)) for test in positives]
    choices += [list(islice(_ways(test, positive=False), _MAX_ALTERNATIVES + 1)) for test in negatives]
    for chosen in product(*choices):
        wanted = dict.fromkeys(test for passing, _ in chosen for test in passing)
        unwanted = dict.fromkeys(test for _, failing in chosen for test in failing)
        yield tuple(wanted), tuple(unwanted)


def _ways(test: Test, *, positive: bool) -> Iterator[_Literals]:
    """Yield the ways in which an existing value passes (or fails) a test."""
    if type(test) in (Present, Absent):
        if (type(test) is Present) is positive:
            yield (), ()
    elif type(test) is AnythingBut:
        yield from _ways(test.test, positive=not positive)
    elif type(test) is NoneOf:
        if positive:
            yield from _alternatives((), test.tests)
        else:
            for one in test.tests:
                yield from _ways(one, positive=True)
    else:
        yield ((test,), ()) if positive else ((), (test,))


def _meets(value: Any, wanted: Iterable[Test], unwanted: Iterable[Test]) -> bool:
    return all(test(value) for test in wanted) and not any(test(value) for test in unwanted)


def _are_known(*tests: Test) -> bool:
    return all(type(test) in _KNOWN for test in tests)


def _enumerated(domain: Domain, kind: str, wanted: Sequence[Test], unwanted: Sequence[Test]) -> Any:
    values = (value for value in _VALUES[kind] if domain.has(value))
    found = next((value for value in values if _meets(value, wanted, unwanted)), NONE)
    return UNSOLVED if found is NONE and kind == "dict" and not _are_known(*wanted, *unwanted) else found


def _opaque(domain: Domain, kind: str, wanted: Sequence[Test], unwanted: Sequence[Test]) -> Any:  # noqa: ARG001 - as all
    """Solve for values of unknown types, for which no example can be made."""
    return UNSOLVED if not wanted or not _are_known(*wanted) else NONE


def _bytes(domain: Domain, kind: str, wanted: Sequence[Test], unwanted: Sequence[Test]) -> Any:  # noqa: ARG001 - as all
    literals = [value for test in (*wanted, *unwanted) for value in literals_of(test) or () if isinstance(value, bytes)]
    fresh = (b"\xff" * length for length in range(1, len(literals) + 2))
    values = (value for value in (*literals, b"x", b"y", *fresh) if domain.has(value))
    found = next((value for value in values if _meets(value, wanted, unwanted)), NONE)
    return UNSOLVED if found is NONE and not _are_known(*wanted, *unwanted) else found


def _number(domain: Domain, kind: str, wanted: Sequence[Test], unwanted: Sequence[Test]) -> Any:
    tests = (*wanted, *unwanted)
    ends: set[Any] = {value for test in tests for value in literals_of(test) or () if _is_number(value)}
    for test in tests:
        if type(test) is Range:
            bounds = bounds_of(test)
            ends |= {bounds.low, bounds.high}
    candidates = _ints(sorted(ends)) if kind == "int" else _floats(sorted(ends))
    values = (value for value in candidates if type(value).__name__ == kind and domain.has(value))
    found = next((value for value in values if _meets(value, wanted, unwanted)), NONE)
    return UNSOLVED if found is NONE and not _are_known(*tests) else found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ints(ends: Sequence[float]) -> Iterator[int]:
    """Yield each integer among the ends, and one of each gap between two ends."""
    finite = [end for end in ends if not math.isinf(end)]
    for end in finite:
        if end == (whole := math.floor(end)):
            yield whole
        # The smallest integer above the end is in the gap, unless the gap has none.
        yield whole + 1
    if finite:
        yield math.ceil(finite[0]) - 1
    yield 1


def _floats(ends: Sequence[float]) -> Iterator[float]:
    """Yield each float among the ends, and one of each gap between two ends."""
    points = list(map(_as_float, ends))
    yield 1.5
    for point in points:
        yield point
        if not math.isinf(point):
            yield from (point + 0.5, point - 0.5)
        yield math.nextafter(point, math.inf)
        yield math.nextafter(point, -math.inf)
    for low, high in pairwise(point for point in points if not math.isinf(point)):
        yield low / 2 + high / 2
    yield from (_LARGEST, -_LARGEST, math.inf, -math.inf)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return _LARGEST if value > 0 else -_LARGEST


def _text(domain: Domain, kind: str, wanted: tuple[Test, ...], unwanted: tuple[Test, ...]) -> Any:
    literals = next((finite for test in wanted if (finite := literals_of(test)) is not None), None)
    if literals is not None:
        return next((v for v in literals if isinstance(v, str) and _meets(v, wanted, unwanted)), NONE)
    if any(type(test) is IsInstance for test in unwanted if kind in kinds(test)):
        return NONE
    for value in islice(samples((*wanted, *unwanted)), _MAX_SAMPLES):
        if isinstance(value, str) and domain.has(value) and _meets(value, wanted, unwanted):
            return value
    # Tests of other kinds are false on text, so they exclude nothing.
    excluding = tuple(test for test in unwanted if kind in kinds(test))
    found = texts(tuple(test for test in wanted if type(test) is not IsInstance), excluding)
    for value in islice(found, _MAX_TEXTS):
        if value is None:
            return NONE
        if _meets(value, wanted, unwanted):
            return value
    return UNSOLVED


def _list(domain: Domain, kind: str, wanted: Sequence[Test], unwanted: Sequence[Test]) -> Any:
    every = tuple(test.test for test in wanted if type(test) is Every)
    some = tuple(test.test for test in unwanted if type(test) is Some)
    elements = [((*every, test.test), some) for test in wanted if type(test) is Some]
    elements += [(every, (*some, test.test)) for test in unwanted if type(test) is Every]
    if domain.header and not elements:
        elements = [(every, some)]
    found = [solve(domain.inside, passing, failing) for passing, failing in elements]
    for answer in (NONE, UNSOLVED):
        if any(value is answer for value in found):
            return answer
    if domain.header and len(found) == 1:
        found *= 2
    value = found if kind == "list" else tuple(found)
    if _meets(value, wanted, unwanted):
        return value
    return NONE if _are_known(*wanted, *unwanted) else UNSOLVED


_VALUES: dict[str, tuple[Scalar | dict[str, Any], ...]] = {**ENUMERABLE, "dict": ({},)}
_SOLVERS: dict[str, Any] = {
    "str": _text,
    "int": _number,
    "float": _number,
    "bool": _enumerated,
    "null": _enumerated,
    "dict": _enumerated,
    "list": _list,
    "tuple": _list,
    "bytes": _bytes,
    "other": _opaque,
}
_ORDER = tuple(_SOLVERS)
