"""Witnesses: example messages that meet given conditions, to demonstrate that two handlers overlap."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

from missive.matchers.events import leaves_of
from missive.matchers.network import Cidr
from missive.matchers.tests import AnythingBut, Every, IsInstance, Range, Some, Test
from missive.matchers.topics import TopicPattern
from missive.matchers.values import MISSING, show
from missive.messages import JSONMessage, Message, StructuredMessage
from missive.routing.globs import Glob, glob_of
from missive.routing.kinds import values_equal_to
from missive.routing.normal import ANY, Conjunction, Constraint, literals_of
from missive.routing.topics import common_tokens

_MAX_TRIED = 500
"""Sample values that are tried at one place."""
_PLAIN: tuple[Any, ...] = ("x", 1, 0, 1.5, True, False, None, "", [], {}, b"x", "missive", -1)
_OF_TYPE: dict[type, Any] = {str: "x", bytes: b"x", int: 1, float: 1.5, bool: True, list: [], dict: {}}


def witness(message_cls: type[Message], condition: Conjunction) -> Message | None:
    """Return a message that is built to meet a condition, or None where no such message was found.

    Evaluate the matchers for the message before you rely on it: a message class may decode in another way.
    """
    try:
        return _Maker(condition).message(message_cls)
    except Exception:  # noqa: BLE001 - the class may refuse values (bytes in JSON) or have another constructor
        return None


def expression_of(message: Message) -> str:
    """Return a Python expression that makes a message equal to the given one."""
    content = None
    if isinstance(message, StructuredMessage):
        with contextlib.suppress(Exception):  # a matcher may require a body that is not JSON
            content = message.content
    envelope = {"headers": dict(message.headers) or None, "topic": message.topic, "key": message.key}
    arguments = [f"{name}={value!r}" for name, value in envelope.items() if value is not None]
    # Show the body itself where encoding the content would give another body.
    if content is None or (isinstance(message, JSONMessage) and type(message).of(content).raw_data != message.raw_data):
        return f"{type(message).__name__}({', '.join([repr(message.raw_data), *arguments])})"
    factory = "of" if isinstance(message, JSONMessage) else "holding"
    return f"{type(message).__name__}.{factory}({', '.join([_value_expression(content), *arguments])})"


def _value_expression(value: Any) -> str:
    """Return a Python expression for a value. Infinity has no literal in Python."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {_value_expression(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value_expression, value))}]"
    return show(value)


class _NotFound(Exception):
    """No value was found for a place."""


class _Maker:
    """A builder of one message that meets a condition."""

    def __init__(self, condition: Conjunction) -> None:
        self._at = condition.constraints
        self._paths = sorted(
            {place[1:] for place, wanted in self._at.items() if place[0] in {"field", "event"} and _needed(wanted)}
        )

    def message(self, message_cls: type[Message]) -> Message:
        envelope: dict[str, Any] = {}
        headers: list[tuple[str, str | bytes]] = []
        for place, wanted in self._at.items():
            if place[0] in {"topic", "key"} and _needed(wanted):
                envelope[place[0]] = _found(wanted, str if place[0] == "topic" else (str, bytes))
            elif place[0] == "header" and _needed(wanted):
                value = _found(wanted, (str, bytes, list))
                headers += [(place[1], one) for one in (value if isinstance(value, list) else [value])]
        envelope["headers"] = headers
        body = self._at.get(("body",), ANY)
        if _needed(body) or not issubclass(message_cls, StructuredMessage):
            return message_cls(_found(body, bytes), **envelope)
        content = self._content(()) if self._paths else {}
        return message_cls.holding(content, **envelope)

    def _content(self, path: tuple[str, ...]) -> Any:
        """Return a value for a path: an object of the fields needed below the path, or else a sample that passes."""
        field, event = self._at.get(("field", *path), ANY), self._at.get(("event", *path), ANY)
        below = dict.fromkeys(
            other[len(path)] for other in self._paths if len(other) > len(path) and other[: len(path)] == path
        )
        if below:
            value = {segment: self._content((*path, segment)) for segment in below}
            if not _meets(field, value):
                raise _NotFound
            return value

        def good(value: Any) -> bool:
            leaves = list(leaves_of(value))
            return (
                (field is ANY or _meets(field, value))
                and all(any(map(test, leaves)) for test in event.positives)
                and not any(any(map(test, leaves)) for test in event.negatives)
            )

        tests = [*field.positives, *event.positives, *field.negatives, *event.negatives]
        several = [[_first(samples([test]), test) for test in event.positives]] if len(event.positives) > 1 else []
        return _first([*several, *islice(samples(tests), _MAX_TRIED)], good)


def _needed(constraint: Constraint) -> bool:
    return any(not test.on_missing for test in constraint.positives)


def _meets(constraint: Constraint, value: Any) -> bool:
    return all(test(value) for test in constraint.positives) and not any(test(value) for test in constraint.negatives)


def _found(constraint: Constraint, types: type | tuple[type, ...]) -> Any:
    tests = [*constraint.positives, *constraint.negatives]
    fitting = (value for value in samples(tests) if isinstance(value, types) and _can_arrive(value))
    # A repeated header arrives as a tuple.
    return _first(
        islice(fitting, _MAX_TRIED),
        lambda value: _meets(constraint, tuple(value) if isinstance(value, list) else value),
    )


def _can_arrive(value: Any) -> bool:
    """Return whether a header can have a value. A list stands for a repeated header, so its items are texts."""
    if not isinstance(value, list):
        return True
    return len(value) > 1 and all(isinstance(element, (str, bytes)) for element in value)


def _first(candidates: Iterable[Any], good: Callable[[Any], bool]) -> Any:
    value = next(filter(good, candidates), MISSING)
    if value is MISSING:
        raise _NotFound
    return value


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
