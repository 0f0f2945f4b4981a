"""Samples: values that are likely to pass given tests, for example messages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

from missive.matchers.network import Cidr
from missive.matchers.tests import AnythingBut, Every, IsInstance, Range, Some, Test
from missive.matchers.topics import TopicPattern
from missive.matchers.values import MISSING
from missive.routing.globs import Glob, glob_of
from missive.routing.kinds import values_equal_to
from missive.routing.normal import literals_of
from missive.routing.topics import common_tokens

_MAX_TRIED = 500
"""Sample values that are tried for one element of a list."""
_PLAIN: tuple[Any, ...] = ("x", 1, 0, 1.5, True, False, None, "", [], {}, b"x", "missive", -1)
_OF_TYPE: dict[type, Any] = {str: "x", bytes: b"x", int: 1, float: 1.5, bool: True, list: [], dict: {}}


def samples(tests: Sequence[Test]) -> Iterator[Any]:
    """Yield values that may pass all of the tests: literals, ends of ranges, fillings of patterns and common values."""
    for test in tests:
        yield from values_equal_to(literals_of(test) or ())
        if isinstance(test, IsInstance):
            yield _OF_TYPE[test.type_]
        elif isinstance(test, Cidr):
            yield from _addresses(test)
        elif isinstance(test, AnythingBut):
            yield from samples([test.test])
        elif type(test).__name__ == "Regex":
            yield test.pattern  # type: ignore[attr-defined]  # a pattern is often its own only match
    yield from _numbers([test for test in tests if isinstance(test, Range)])
    yield from _topics(tests)
    yield from _texts([glob for test in tests if (glob := glob_of(test)) is not None])
    yield from _lists(tests)
    yield from _PLAIN


def _addresses(network: Cidr) -> Iterator[str]:
    import ipaddress  # noqa: PLC0415 - few applications route on networks

    kind = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address  # noqa: PLR2004 - IP's versions
    for number in (network.first, network.last, min(network.first + 1, network.last)):
        yield str(kind(number))


def _numbers(ranges: Sequence[Range]) -> Iterator[float]:
    ends = sorted({end for r in ranges for end in (r.gt, r.ge, r.lt, r.le) if end is not None})
    for end in ends:
        yield end
        yield end + 1
        yield end - 1
        if isinstance(end, float):
            yield math.nextafter(end, math.inf)
            yield math.nextafter(end, -math.inf)
    for low, high in pairwise(ends):
        yield (low + high) // 2 if isinstance(low, int) and isinstance(high, int) else (low + high) / 2
        yield (low + high) / 2


def _topics(tests: Sequence[Test]) -> Iterator[str]:
    patterns = [test for test in tests if isinstance(test, TopicPattern)]
    for one in patterns:
        for other in patterns:
            tokens = common_tokens(one, other) if type(one) is type(other) else None
            if tokens is not None:
                yield one.separator.join(tokens or ["x"])
        texts = [value for test in tests for value in literals_of(test) or () if isinstance(value, str)]
        texts += [chunk for test in tests if (glob := glob_of(test)) and glob.exact for chunk in glob.chunks if chunk]
        for text in ["x", *texts]:
            filled = [text if token in {one.single, one.multi} else token for token in one.tokens]
            yield one.separator.join(filled)
            yield one.separator.join([*filled, "x"])
            yield text + one.separator + "x"


def _texts(globs: Sequence[Glob]) -> Iterator[str]:
    if not globs:
        return
    # Start with a glob that does not ignore case: it determines the case of the text.
    exact = sorted(globs, key=lambda glob: glob.folded)
    heads = sorted((glob.chunks[0] for glob in exact), key=len, reverse=True)
    tails = sorted((glob.chunks[-1] for glob in exact), key=len, reverse=True)
    middle = "".join(chunk for glob in exact for chunk in glob.chunks[1:-1])
    for filler in ("", "x", ".x", "/x"):
        yield heads[0] + filler + middle + tails[0]
    for head in dict.fromkeys(heads):
        for tail in dict.fromkeys(tails):
            yield head + middle + tail
            yield head + "x" + middle + tail
    yield from heads
    yield from tails


def _lists(tests: Sequence[Test]) -> Iterator[list[Any]]:
    wanted = [test.test for test in tests if isinstance(test, Some)]
    always = [test.test for test in tests if isinstance(test, Every)]
    if not wanted and not always:
        return
    elements = []
    for one in wanted:
        tests_of_one = (one, *always)
        good = (v for v in islice(samples(tests_of_one), _MAX_TRIED) if all(t(v) for t in tests_of_one))
        element = next(good, MISSING)
        if element is MISSING:
            return
        elements.append(element)
    yield elements
    yield [*elements, *elements]
    if always:
        yield from ([value, value] for value in islice(samples(always), _MAX_TRIED) if all(t(value) for t in always))
