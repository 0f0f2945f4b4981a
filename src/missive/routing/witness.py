"""Witnesses: example messages that meet given conditions, to demonstrate that two handlers overlap."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from missive.errors import DecodingError
from missive.fields import has_fields
from missive.matchers.events import leaves_of
from missive.matchers.selectors import Place
from missive.matchers.tests import Test
from missive.matchers.values import MISSING, show
from missive.messages import JSONMessage, Message, StructuredMessage
from missive.routing.normal import ANY, Conjunction, Constraint
from missive.routing.samples import samples
from missive.routing.solver import NONE, UNSOLVED, domain_of, solve

_MAX_JOINT_DEPTH = 6
"""Levels of objects that are joined member by member."""
_MAX_TRIED = 100
"""Sample values that are tried at one place before the solver."""


def witness(message_cls: type[Message], condition: Conjunction) -> Message | None:
    """Return a message that is built to meet a condition, or None where no such message was found.

    Evaluate the matchers for the message before you rely on it: a message class may decode in another way.
    """
    try:
        return _Maker(condition, json=decodes_json(message_cls)).message(message_cls)
    except Exception:  # noqa: BLE001 - the class may refuse values (bytes in JSON) or have another constructor
        return None


def joint_witnesses(
    message_cls: type[Message], one: Conjunction, other: Conjunction, both: Conjunction
) -> Iterator[Message]:
    """Yield messages that join the contents for two conditions on events, with arrays of the values of both."""
    if any(place[0] in {"field", "body"} for place in both.constraints):
        return
    try:
        json = decodes_json(message_cls)
        first, second = (_Maker(condition, json=json).message(message_cls).content for condition in (one, other))  # type: ignore[attr-defined]  # checked at registration
        for depth in range(_MAX_JOINT_DEPTH, -1, -1):
            yield _Maker(both, json=json).message(message_cls, _joined(first, second, depth))
    except Exception:  # noqa: BLE001 - as above
        return


def _joined(one: Any, other: Any, depth: int) -> Any:
    """Return an array of two values. Join objects up to a depth member by member."""
    if isinstance(one, dict) and isinstance(other, dict) and depth:
        members = {**one, **other}
        return {
            name: _joined(one[name], other[name], depth - 1) if name in one and name in other else value
            for name, value in members.items()
        }
    if one == other:
        return one
    return [*(one if isinstance(one, list) else [one]), *(other if isinstance(other, list) else [other])]


def decodes_json(message_cls: type[Message]) -> bool:
    """Return whether the bodies of a message class are decoded as JSON, and by nothing else."""
    return (
        issubclass(message_cls, JSONMessage)
        and message_cls.decode is JSONMessage.decode
        and message_cls.content is JSONMessage.content
    )


def expression_of(message: Message) -> str:
    """Return a Python expression that makes a message equal to the given one."""
    content = None
    if isinstance(message, StructuredMessage):
        with contextlib.suppress(Exception):  # a matcher may require a body that is not JSON
            content = message.content
    envelope = {"headers": dict(message.headers) or None, "topic": message.topic, "key": message.key}
    arguments = [f"{name}={value!r}" for name, value in envelope.items() if value is not None]
    # Show the body itself where encoding the content would give another body, or the content has no expression.
    if content is None or (isinstance(message, JSONMessage) and not _encodes(message, content)):
        return f"{type(message).__name__}({', '.join([repr(message.raw_data), *arguments])})"
    factory = "of" if isinstance(message, JSONMessage) and _decodes(message) else "holding"
    return f"{type(message).__name__}.{factory}({', '.join([_value_expression(content), *arguments])})"


def _encodes(message: JSONMessage, content: object) -> bool:
    """Return whether the content is plain data whose JSON is the body."""
    return not has_fields(type(content)) and type(message).of(content).raw_data == message.raw_data


def _decodes(message: JSONMessage) -> bool:
    """Return whether the class decodes the body. An example for a class of typed bodies may lack required fields."""
    try:
        type(message)(message.raw_data).content  # noqa: B018 - decode now
    except DecodingError:
        return False
    return True


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

    def __init__(self, condition: Conjunction, *, json: bool) -> None:
        self._at = condition.constraints
        self._json = json
        self._paths = sorted(
            {place[1:] for place, wanted in self._at.items() if place[0] in {"field", "event"} and _needed(wanted)}
        )

    def message(self, message_cls: type[Message], content: Any = MISSING) -> Message:
        """Return a message of a class, with the given content if there is one."""
        envelope: dict[str, Any] = {}
        headers: list[tuple[str, str | bytes]] = []
        for place, wanted in self._at.items():
            if place[0] in {"topic", "key"} and _needed(wanted):
                envelope[place[0]] = _found(place, wanted)
            elif place[0] == "header" and _needed(wanted):
                value = _found(place, wanted)
                headers += [(place[1], one) for one in (value if isinstance(value, tuple) else [value])]
        envelope["headers"] = headers
        body = self._at.get(("body",), ANY)
        if _needed(body) or not issubclass(message_cls, StructuredMessage):
            return message_cls(_found(("body",), body), **envelope)
        if content is MISSING:
            content = self._content(()) if self._paths else {}
        return message_cls.holding(content, **envelope)

    def _content(self, path: tuple[str, ...]) -> Any:
        """Return a value for a path: an object of the fields needed below the path, or else a sample that passes."""
        field, event = self._at.get(("field", *path), ANY), self._at.get(("event", *path), ANY)
        below = dict.fromkeys(
            other[len(path)] for other in self._paths if len(other) > len(path) and other[: len(path)] == path
        )
        if below:
            value: Any = {segment: self._content((*path, segment)) for segment in below}
            if event.positives and not any(self._has_field(path, segment) for segment in below):
                # An array may have the object and the values of the event at this path.
                value = [value, *self._leaves(event)]
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

        return _first(self._values(field, event), good)

    def _values(self, field: Constraint, event: Constraint) -> Iterator[Any]:
        """Yield values for a path. An event may need several, each for one of its tests."""
        tests = [*field.positives, *event.positives, *field.negatives, *event.negatives]
        if len(event.positives) > 1:
            yield self._leaves(event)
        domain = domain_of(("field",), json=self._json)
        yield from filter(domain.has, islice(samples(tests), _MAX_TRIED))
        yield from _solved(
            solve(domain, (*field.positives, *event.positives), (*field.negatives, *event.negatives)),
            solve(domain, field.positives, field.negatives),
        )
        yield self._leaves(event)

    def _leaves(self, event: Constraint) -> list[Any]:
        """Return a value for each test of an event, as far as there is one."""
        leaf = domain_of(("event",), json=self._json)
        return list(_solved(*(solve(leaf, (test,), event.negatives) for test in event.positives)))

    def _has_field(self, path: tuple[str, ...], segment: str) -> bool:
        """Return whether a `Field` has a condition below a path."""
        below = (*path, segment)
        return any(place[0] == "field" and place[1 : len(below) + 1] == below for place in self._at)


def _needed(constraint: Constraint) -> bool:
    return any(not test.on_missing for test in constraint.positives)


def _meets(constraint: Constraint, value: Any) -> bool:
    return all(test(value) for test in constraint.positives) and not any(test(value) for test in constraint.negatives)


def _found(place: Place, constraint: Constraint) -> Any:
    domain = domain_of(place, json=False)
    tests: list[Test] = [*constraint.positives, *constraint.negatives]
    # A repeated header arrives as a tuple.
    values = (tuple(value) if isinstance(value, list) else value for value in islice(samples(tests), _MAX_TRIED))
    value = next((value for value in values if domain.has(value) and _meets(constraint, value)), MISSING)
    if value is not MISSING:
        return value
    return _first(_solved(solve(domain, constraint.positives, constraint.negatives)), lambda _: True)


def _solved(*answers: Any) -> Iterator[Any]:
    return (answer for answer in answers if answer is not NONE and answer is not UNSOLVED)


def _first(candidates: Iterable[Any], good: Callable[[Any], bool]) -> Any:
    value = next(filter(good, candidates), MISSING)
    if value is MISSING:
        raise _NotFound
    return value
